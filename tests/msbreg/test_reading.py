"""One reading of any file: what is kept of a good one, what is said of a bad one."""

import argparse
import gzip
import hashlib
import io
import json
import lzma
import os
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from msbreg.errors import UserError
from msbreg.reading import read_file
from tests.msbreg.pickled import FORMS, write, zip_with

STATE = {"conv.weight": torch.arange(1000.0).reshape(10, 100), "bn.bias": torch.ones(10)}
CONTAINERS = {"zip": "torch zip", "legacy": "torch legacy", "plain": "pickle"}


def equal(found, expected):
    return list(found) == list(expected) and all(torch.equal(found[k], expected[k]) for k in found)


def message(path, **options) -> str:
    with pytest.raises(UserError) as refused:
        read_file(path, **options)
    return str(refused.value)


# ------------------------------------------------------------------------------------ good files


@pytest.mark.parametrize("trust_pickle", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_state_dict_is_read_exactly_in_every_form(tmp_path, form, trust_pickle):
    """Types, views, empty tensors and the state dict's versions, with either unpickler."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    base = torch.arange(6.0)
    content = {
        "state": network.state_dict(),
        "views": [base[::2], base.reshape(2, 3).T, base[1:3], base[:0], torch.tensor(3)],
        "types": [
            torch.ones(2, dtype=getattr(torch, name))
            for name in ("float16", "bfloat16", "int8", "bool", "complex64", "float64")
        ],
        "shape": torch.Size([1, 2]),
        "rest": (None, "é", b"\xff", 1, 2.5, 1j, {3}, {"a": [True]}),
    }
    found = read_file(write(tmp_path / "x", content, form), trust_pickle=trust_pickle)
    assert found.container == CONTAINERS[form]
    assert found.stubbed == ()
    assert equal(found.content["state"], network.state_dict())
    assert found.content["state"]._metadata == network.state_dict()._metadata
    for kind in ("views", "types"):
        for one, expected in zip(found.content[kind], content[kind], strict=True):
            assert torch.equal(one, expected)
            assert one.dtype == expected.dtype
    assert found.content["shape"] == torch.Size([1, 2])
    assert found.content["rest"] == content["rest"]


@pytest.mark.parametrize("form", FORMS)
def test_the_digest_is_of_the_bytes_that_were_read(tmp_path, form):
    path = write(tmp_path / "x", STATE, form)
    found = read_file(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.path == path
    assert found.metadata == found.sidecar == {}


def test_a_file_that_is_replaced_does_not_change_what_was_read(tmp_path):
    path = write(tmp_path / "x", STATE, "zip")
    found = read_file(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert equal(found.content, STATE)


def test_a_pickle_of_detectron2_holds_tensors(tmp_path):
    content = {
        "model": {"w": np.ones((2, 2), "f4")},
        "__author__": "x",
        "matching_heuristics": True,
    }
    found = read_file(write(tmp_path / "R-50.pkl", content, "plain"))
    assert found.container == "pickle"
    assert torch.equal(found.content["model"]["w"], torch.ones(2, 2))
    assert found.content["matching_heuristics"] is True


def test_a_name_does_not_matter(tmp_path):
    path = write(tmp_path / "model.pth.tar", STATE, "zip")
    assert read_file(path).container == "torch zip"
    (tmp_path / "x.pth").write_bytes(safetensors.torch.save(STATE))
    assert read_file(tmp_path / "x.pth").container == "safetensors"


def test_safetensors_come_with_metadata_and_the_settings_beside(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(STATE, path, metadata={"format": "pt"})
    assert read_file(path).sidecar == {}
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5]}')
    found = read_file(path)
    assert equal(dict(sorted(found.content.items(), reverse=True)), STATE)
    assert found.container == "safetensors"
    assert found.metadata == {"format": "pt"}
    assert found.sidecar == {"model_type": "resnet", "preprocessor": {"image_mean": [0.5]}}
    assert read_file(write(tmp_path / "x.bin", STATE, "zip")).sidecar == found.sidecar
    assert read_file(write(tmp_path / "x.pth", STATE, "zip")).sidecar == {}


@pytest.mark.parametrize("text", ["[1]", "{", "\xff", "[" * 100_000])
def test_settings_that_are_none_are_left_alone(tmp_path, text):
    path = write(tmp_path / "x.bin", STATE, "zip")
    (tmp_path / "config.json").write_text(text)
    assert read_file(path).sidecar == {}


def test_a_name_that_a_library_has_declared_safe_stays_refused(tmp_path):
    path = write(tmp_path / "x", {"args": argparse.Namespace()}, "zip")
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert "argparse.Namespace" in message(path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_the_environment_does_not_turn_the_safe_reader_off(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = write(tmp_path / "x", {"args": argparse.Namespace()}, "zip")
    assert "argparse.Namespace" in message(path)


@pytest.mark.parametrize("trust_pickle", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_reading_warns_of_nothing(tmp_path, form, trust_pickle):
    path = write(tmp_path / "x", {"w": torch.eye(2), "s": torch.eye(2).to_sparse()}, form)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            read_file(path, trust_pickle=trust_pickle)
        except UserError as error:
            assert form == "plain" in str(error) or "sparse" in str(error)  # noqa: PT017
    assert caught == []


# ------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("form", FORMS)
def test_a_refusal_names_every_kind_of_object_and_the_way_out(tmp_path, form):
    content = {
        "model": STATE,
        "args": argparse.Namespace(lr=1),
        "network": torch.nn.Linear(1, 1),
        "function": os.path.join,
        "log": [argparse.ArgumentTypeError],
    }
    text = message(write(tmp_path / "x.pth", content, form))
    size = (tmp_path / "x.pth").stat().st_size
    assert text == (
        f"{tmp_path}/x.pth ({size} bytes) cannot be loaded: besides tensors it holds objects of 4 "
        "kinds, which only code can make.\n"
        "  argparse.ArgumentTypeError      a class or function of the code that wrote the file\n"
        "  argparse.Namespace              the training script's options\n"
        "  posixpath.join                  paths of files\n"
        "  torch.nn.modules.linear.Linear  a whole network, not its state_dict\n"
        "--trust-pickle reads it with an unpickler that runs none of its code: tensors, numbers "
        "and\ncontainers are kept, everything else becomes an inert record of its name."
    )


def test_numpy_is_refused_by_pytorch_and_read_in_plain_pickles(tmp_path):
    text = message(write(tmp_path / "x", {"lr": np.float64(1)}, "zip"))
    assert "multiarray.scalar  NumPy numbers or arrays" in text
    assert read_file(write(tmp_path / "x", {"lr": np.float64(1)}, "plain")).content == {"lr": 1.0}
    text = message(write(tmp_path / "x", np.array(["a"]), "plain"))
    assert "numpy.ndarray that is not of numbers  NumPy texts or objects" in text


def test_a_long_list_of_names_is_cut(tmp_path):
    names = b"".join(b"cmodule\nname%03d\n0" % i for i in range(100))
    (tmp_path / "x").write_bytes(zip_with(b"\x80\x02" + names + b"N."))
    text = message(tmp_path / "x")
    assert "module.name039  a class" in text
    assert "module.name040" not in text
    assert "... and 60 more" in text


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_newer_protocol_is_read_with_trust(tmp_path, form):
    path = tmp_path / "x"
    torch.save(STATE, path, pickle_protocol=4, _use_new_zipfile_serialization=form == "zip")
    assert "that PyTorch's safe reader does not know.\n--trust-pickle reads it" in message(path)
    assert equal(read_file(path, trust_pickle=True).content, STATE)


# ------------------------------------------------------------------------------------ bad files


@pytest.mark.parametrize("form", [*FORMS, "safetensors"])
def test_a_file_that_is_cut_short_says_so(tmp_path, form):
    path = tmp_path / "x.pth"
    if form == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        write(path, STATE, form)
    data = path.read_bytes()
    for kept in (9, 30, 60, 150, 300, 1000, len(data) - 100, len(data) - 1):
        for trust_pickle in (False, True):
            path.write_bytes(data[:kept])
            assert f"({kept} bytes) cannot be loaded: it is cut short" in message(
                path, trust_pickle=trust_pickle
            )


def tar(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that TorchScript is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(1, 1), torch.ones(1, 1)), buffer)
    return buffer.getvalue()


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 102537\n"
)
TABLE = bytes(40) + 0xDB4775248B80FB57.to_bytes(8, "little")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>", "a web page, not a checkpoint: the download gave a login or"),
        (b"<?xml version='1.0'?><Error>AccessDenied", "a web page, not a checkpoint"),
        (
            POINTER,
            r"a Git LFS pointer to a file of 102537 bytes, not the file.\nRun `git lfs pull`",
        ),
        (b'{"error": "not found"}', 'it is text, beginning \'{"error"'),
        (b"Entry not found", "it is text, beginning 'Entry not found'"),
        (gzip.compress(b"x"), r"it is packed \(gzip\).\nUnpack it first \(gunzip"),
        (lzma.compress(b"x"), r"it is packed \(xz\)"),
        (b"7z\xbc\xaf\x27\x1c", r"it is packed \(7z\)"),
        (b"Rar!\x1a\x07", r"it is packed \(rar\)"),
        (tar(**{"a.pth": b"x"}), r"a tar archive of other files \(a.pth\).\nUnpack it first \(tar"),
        (tar(sys_info=b"", storages=b"", tensors=b"", pickle=b""), "before version 0.1.10"),
        (
            zipped(**{"a__1.pth.tar": b"x", "a__b": b"y"}),
            r"a zip archive of other files \(a/1.pth.tar, a/b\).\nUnpack it first \(unzip\)",
        ),
        (zipped(), "it is a zip archive.\nUnpack"),
        (zipped(**{"w.npy": b"x"}), "an archive of NumPy arrays"),
        (script(), r"a TorchScript archive, a program rather than weights.\n.*\n.*torch.jit.load"),
        (
            zipped(
                **{"a__data.pkl": b"\x80\x02N.", "a__version": b"3\n", "a__data__0": bytes(2**23)}
            ),
            "it would unpack to 83",
        ),
        (
            b"\x89HDF\r\n\x1a\n",
            "an HDF5 file, as Keras saves weights.\nExpected a checkpoint saved",
        ),
        (b"\x93NUMPY\x01", "a single NumPy array"),
        (TABLE, "part of a TensorFlow checkpoint.\nConvert it to PyTorch's format first"),
        (
            b"\x00\x01\x02\x03",
            r"it starts with b'\\x00\\x01\\x02\\x03'.\nExpected a checkpoint saved",
        ),
        (b"\x80\x02\xff.", "it is damaged, or no pickle file that can be read"),
        (b"\x02\0\0\0\0\0\0\0{]", "it is damaged, or no safetensors file"),
        (b"\x02\0\0\0\0\0\0\0{}x", "it is damaged, or no safetensors file"),
        (zip_with(b"\xff."), "it is damaged, or no torch zip file"),
        (b"PK\x03\x04" + bytes(30) + b"PK\x05\x06" + b"\xff" * 18, "its archive is damaged"),
    ],
    ids=lambda value: repr(value)[:24] if isinstance(value, str) else "",
)
def test_what_is_no_checkpoint_is_told_what_it_is(tmp_path, data, words):
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    for trust_pickle in (False, True):
        with pytest.raises(UserError, match=words) as refused:
            read_file(path, trust_pickle=trust_pickle)
        assert str(refused.value).startswith(f"{path} ({len(data)} bytes) cannot be loaded: ")
        assert "\n" in str(refused.value)  # what to do


@pytest.mark.parametrize(
    "name", ["model.ckpt-225206.data-00000-of-00001", "model.ckpt-225206.meta", "a.ckpt.index"]
)
def test_the_parts_of_a_tensorflow_checkpoint_are_known_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x01\x02")
    assert "it is part of a TensorFlow checkpoint" in message(tmp_path / name)


def test_the_prefix_of_a_tensorflow_checkpoint(tmp_path):
    (tmp_path / "model.ckpt-1.index").write_bytes(TABLE)
    assert "is the prefix of a TensorFlow checkpoint" in message(tmp_path / "model.ckpt-1")
    assert "is a folder with a TensorFlow checkpoint" in message(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "is a folder; expected a file such as runs/pretrain/checkpoint.pth"),
        (
            ["config.json", "a.bin", "model.safetensors"],
            r"Give the file in it: .*/model.safetensors",
        ),
        (["config.json", "pytorch_model.bin"], "Give the file in it: .*/pytorch_model.bin$"),
        (["b.ckpt", "a.ckpt"], r"Give the file in it: .*/a.ckpt \(2 such files\)"),
        (["saved_model.pb"], "is a folder with a TensorFlow checkpoint"),
    ],
)
def test_a_folder_is_told_which_file_to_give(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=words):
        read_file(tmp_path)


def test_what_is_not_there_is_told_so(tmp_path):
    assert "does not exist; expected a file such as" in message(tmp_path / "x.pth")
    (tmp_path / "file").write_text("x")
    assert "does not exist" in message(tmp_path / "file" / "x.pth")
    assert "is an address" in message(Path("https://host/x.pth"))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "is a device or a pipe; expected a file" in message(tmp_path / "pipe")


def test_a_file_that_is_not_for_us_is_told_so(tmp_path):
    path = write(tmp_path / "x.pth", STATE, "zip")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may read everything
        os.seteuid(65534)
    try:
        text = message(path)
    finally:
        os.seteuid(user)
    assert text.startswith(
        f"checkpoint {path} cannot be read: Permission denied.\nMake it readable"
    )


@pytest.mark.parametrize("protocol", [0, 1])
@pytest.mark.parametrize("content", [{"w": [1.5]}, [{"w": [1.5]}]], ids=["dict", "list"])
def test_the_oldest_pickles_are_read(tmp_path, content, protocol):
    """They begin with no byte of their own."""
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    assert read_file(tmp_path / "x.pkl").content == content


def test_the_header_of_safetensors_is_checked(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "x"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "it is damaged, or no safetensors file" in message(path)
