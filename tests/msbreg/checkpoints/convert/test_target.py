"""Encodings that old and new libraries read without running code."""

import io
import json
import pickle
import pickletools

import numpy as np
import pytest
import torch

from msbreg.checkpoints.convert.target import as_json, as_safetensors, pickled, torch_saved

CONTENT = {
    "model": {
        "weight": torch.arange(24.0).reshape(2, 3, 4),
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "counter": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    },
    "settings": {"list": [1, 2.5, None, True], "text": "é"},
}


def globals_of(data: bytes) -> set[str]:
    """Names that a pickle imports: the two strings before STACK_GLOBAL, or the argument of GLOBAL."""
    names, strings = set(), []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]))
        elif opcode.name == "GLOBAL":
            names.add(argument.replace(" ", "."))
        elif "UNICODE" in opcode.name:
            strings.append(argument)
    return names


def test_a_pickle_refers_only_to_ndarray_and_bytearray():
    assert globals_of(pickled(CONTENT)) == {"numpy.ndarray", "builtins.bytearray"}


def test_a_pickle_has_a_protocol_that_python_3_4_reads():
    assert pickled(CONTENT)[:2] == b"\x80\x04"


def test_arrays_keep_dtype_shape_and_values_and_are_writable():
    found = pickle.load(io.BytesIO(pickled(CONTENT)), encoding="latin1")
    assert found["settings"] == CONTENT["settings"]
    for name, tensor in CONTENT["model"].items():
        array = found["model"][name]
        assert type(array) is np.ndarray
        assert array.flags.writeable
        assert torch.equal(torch.from_numpy(array), tensor)
        assert array.dtype == tensor.numpy().dtype


def test_a_torch_file_loads_with_weights_only():
    found = torch.load(io.BytesIO(torch_saved(CONTENT)), weights_only=True)
    assert torch.equal(found["model"]["weight"], CONTENT["model"]["weight"])


def test_safetensors_metadata_is_json_and_marks_pytorch():
    data = as_safetensors({"a": torch.ones(2)}, {"msbreg": {"arch": "resnet18"}})
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    assert metadata["format"] == "pt"
    assert json.loads(metadata["msbreg"]) == {"arch": "resnet18"}


def test_nan_is_an_error_in_json():
    with pytest.raises(ValueError):
        as_json({"error": float("nan")})
