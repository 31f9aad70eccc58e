"""Reading a file: what is kept of a valid one, and which files are rejected."""

import argparse
import hashlib
import os
import socket
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from msbreg.checkpoints.read import file, read_file
from msbreg.checkpoints.read.containers import container_of
from msbreg.run.errors import UserError
from tests.msbreg.checkpoints.read.pickled import FORMS, message, write, zip_with

STATE = {"conv.weight": torch.arange(1000.0).reshape(10, 100), "bn.bias": torch.ones(10)}
CONTAINERS = {"zip": "torch zip", "legacy": "torch legacy", "plain": "pickle"}


def equal(found, expected):
    return list(found) == list(expected) and all(torch.equal(found[k], expected[k]) for k in found)


# ------------------------------------------------------------------------------------ valid files


@pytest.mark.parametrize("trust_pickle", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_state_dict_is_read_exactly_in_every_form(tmp_path, form, trust_pickle):
    """Types, views, empty tensors and the state dict's versions, with and without trust."""
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
def test_the_digest_is_of_the_bytes_read(tmp_path, form):
    path = write(tmp_path / "x", STATE, form)
    found = read_file(path)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.path == path
    assert found.metadata == found.sidecar == {}


def test_replacing_the_file_does_not_change_the_content_read(tmp_path):
    path = write(tmp_path / "x", STATE, "zip")
    found = read_file(path)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert equal(found.content, STATE)


def test_arrays_in_a_detectron2_pickle_become_tensors(tmp_path):
    content = {
        "model": {"w": np.ones((2, 2), "f4")},
        "__author__": "x",
        "matching_heuristics": True,
    }
    found = read_file(write(tmp_path / "R-50.pkl", content, "plain"))
    assert found.container == "pickle"
    assert torch.equal(found.content["model"]["w"], torch.ones(2, 2))
    assert found.content["matching_heuristics"] is True


def test_the_file_name_does_not_matter(tmp_path):
    path = write(tmp_path / "model.pth.tar", STATE, "zip")
    assert read_file(path).container == "torch zip"
    (tmp_path / "x.pth").write_bytes(safetensors.torch.save(STATE))
    assert read_file(tmp_path / "x.pth").container == "safetensors"


def test_safetensors_come_with_metadata_and_sidecar_settings(tmp_path):
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
def test_malformed_sidecar_settings_are_ignored(tmp_path, text):
    path = write(tmp_path / "x.bin", STATE, "zip")
    (tmp_path / "config.json").write_text(text)
    assert read_file(path).sidecar == {}


def test_torchs_list_of_safe_globals_has_no_effect(tmp_path):
    path = write(tmp_path / "x", {"args": argparse.Namespace()}, "zip")
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert "argparse.Namespace" in message(path)
        assert argparse.Namespace in torch.serialization.get_safe_globals()


def test_the_environment_cannot_make_reading_unsafe(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path = write(tmp_path / "x", {"args": argparse.Namespace()}, "zip")
    assert "argparse.Namespace" in message(path)


def test_an_environment_variable_of_torch_load_has_no_effect(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "1")
    path = write(tmp_path / "x", STATE, "zip")
    assert equal(read_file(path).content, STATE)
    assert equal(read_file(path, trust_pickle=True).content, STATE)


@pytest.mark.parametrize("trust_pickle", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_reading_emits_no_warnings(tmp_path, form, trust_pickle):
    path = write(tmp_path / "x", {"w": torch.eye(2), "s": torch.eye(2).to_sparse()}, form)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            read_file(path, trust_pickle=trust_pickle)
        except UserError as error:
            assert form == "plain" in str(error) or "sparse" in str(error)  # noqa: PT017
    assert caught == []


# ------------------------------------------------------------------------------------- rejected files


@pytest.mark.parametrize("form", FORMS)
def test_the_error_lists_every_kind_of_object_and_the_remedy(tmp_path, form):
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
        f"{tmp_path}/x.pth ({size} bytes) cannot be loaded: in addition to tensors it "
        "contains 4 kinds of objects that only code can build.\n"
        "  argparse.ArgumentTypeError      a class or function of the program that wrote the file\n"
        "  argparse.Namespace              the training script's options\n"
        "  posixpath.join                  file paths\n"
        "  torch.nn.modules.linear.Linear  a whole network, not its state_dict\n"
        "Pass --trust-pickle to read it, still without running any of its code: tensors, numbers and\n"
        "containers are kept, everything else becomes an inert record with its name."
    )


@pytest.mark.parametrize("form", FORMS)
def test_numeric_numpy_values_are_read(tmp_path, form):
    content = {"lr": np.float64(1), "log": np.arange(3)}
    found = read_file(write(tmp_path / "x", content, form)).content
    assert found["lr"] == 1.0
    assert torch.equal(found["log"], torch.arange(3))
    text = message(write(tmp_path / "x", np.array(["a"]), form))
    assert "numpy.ndarray that is not numeric  NumPy strings or objects" in text


def test_a_long_list_of_names_is_truncated(tmp_path):
    names = b"".join(b"cmodule\nname%03d\n0" % i for i in range(100))
    (tmp_path / "x").write_bytes(zip_with(b"\x80\x02" + names + b"N."))
    text = message(tmp_path / "x")
    assert "module.name039  a class" in text
    assert "module.name040" not in text
    assert "... and 60 more" in text


@pytest.mark.parametrize("form", ["zip", "legacy"])
@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_binary_protocol_is_read(tmp_path, form, protocol):
    path = tmp_path / "x"
    torch.save(STATE, path, pickle_protocol=protocol, _use_new_zipfile_serialization=form == "zip")
    assert equal(read_file(path).content, STATE)


# ------------------------------------------------------------------------ special files


def test_pipes_sockets_and_devices_are_rejected_without_blocking(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket path has at most 108 bytes
    os.mkfifo("pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for name in ("pipe", "socket", os.devnull):
            text = message(Path(name))
            assert text == (
                f"checkpoint {name} is a device, a pipe or a socket; expected a regular file"
            )


def test_a_pipe_in_place_of_a_sidecar_is_ignored_without_blocking(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    assert read_file(write(tmp_path / "x.bin", STATE, "zip")).sidecar == {}


@pytest.mark.parametrize("change", ["shorter", "longer", "replaced"])
def test_a_file_that_changes_while_it_is_read_is_reported(tmp_path, monkeypatch, change):
    """The file changes after its container is recognized."""
    path = write(tmp_path / "x", STATE, "zip")
    data = path.read_bytes()

    def change_file(*arguments):
        new = {"shorter": data[:-9], "longer": data + b"x", "replaced": data[::-1]}[change]
        path.write_bytes(new)
        os.utime(path, ns=(1, 1))
        return container_of(*arguments)

    monkeypatch.setattr(file, "container_of", change_file)
    assert message(path).startswith(f"checkpoint {path} changed while it was being read (")


def test_a_file_is_opened_and_hashed_once(tmp_path, monkeypatch):
    path = write(tmp_path / "x", STATE, "zip")
    calls = []
    monkeypatch.setattr(
        file.hashlib, "sha256", lambda data, make=hashlib.sha256: calls.append("hash") or make(data)
    )
    monkeypatch.setattr(
        file, "_open_regular", lambda *a, real=file._open_regular: calls.append("open") or real(*a)
    )
    read_file(path)
    assert calls == ["open", "hash"]
