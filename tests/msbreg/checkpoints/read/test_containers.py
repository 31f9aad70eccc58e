"""What the message says about a file that is not a checkpoint, or only a part of one."""

import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch

from msbreg.checkpoints.read import read_file
from msbreg.run.errors import UserError
from tests.msbreg.checkpoints.read.pickled import FORMS, message, write, zip_with

STATE = {"conv.weight": torch.arange(1000.0).reshape(10, 100), "bn.bias": torch.ones(10)}


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
        (
            tar(sys_info=b"", storages=b"", tensors=b"", pickle=b""),
            "it is a tar of storages, as the first",
        ),
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
        (b"\x80\x02\xff.", "it is damaged, or not a valid pickle file"),
        (b"\x02\0\0\0\0\0\0\0{]", "it is damaged, or not a valid safetensors file"),
        (b"\x02\0\0\0\0\0\0\0{}x", "it is damaged, or not a valid safetensors file"),
        (zip_with(b"\xff."), "it is damaged, or not a valid torch zip file"),
        (b"PK\x03\x04" + bytes(30) + b"PK\x05\x06" + b"\xff" * 18, "its archive is damaged"),
    ],
    ids=lambda value: repr(value)[:24] if isinstance(value, str) else "",
)
def test_the_message_says_what_a_file_is_instead_of_a_checkpoint(tmp_path, data, words):
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
def test_the_message_for_a_folder_names_the_file_to_give(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=words):
        read_file(tmp_path)


def test_a_missing_file_is_reported(tmp_path):
    assert "does not exist; expected a file such as" in message(tmp_path / "x.pth")
    (tmp_path / "file").write_text("x")
    assert "does not exist" in message(tmp_path / "file" / "x.pth")
    assert "is an address" in message(Path("https://host/x.pth"))


def test_a_file_without_permission_is_reported(tmp_path):
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
        f"checkpoint {path} cannot be read: Permission denied.\nChange its permissions"
    )


@pytest.mark.parametrize("protocol", [0, 1])
@pytest.mark.parametrize("content", [{"w": [1.5]}, [{"w": [1.5]}]], ids=["dict", "list"])
def test_the_oldest_pickles_are_read(tmp_path, content, protocol):
    """They do not begin with an opcode of their protocol."""
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    assert read_file(tmp_path / "x.pkl").content == content


def test_the_header_of_safetensors_is_checked(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "x"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "it is damaged, or not a valid safetensors file" in message(path)


# ---------------------------------------------------------------------- archives that contradict


def test_an_archive_after_other_bytes_is_refused(tmp_path):
    """Its table of contents is counted from the end by Python, from the beginning by PyTorch."""
    (tmp_path / "x").write_bytes(zip_with(b"\x80\x02N.") + zip_with(b"\x80\x02N."))
    assert "its table of contents is not that of the whole file" in message(tmp_path / "x")


def test_entries_of_one_name_are_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's, about the name
        for content in (b"\x80\x02N.", b"\x80\x02]."):
            archive.writestr("a/data.pkl", content)
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert "two entries have the same name" in message(tmp_path / "x")


def test_entries_in_one_place_are_refused(tmp_path):
    data = bytearray(zip_with(b"\x80\x02N.", _0=bytes(8), _1=bytes(8)))
    last = data.rindex(b"PK\1\2")
    before = data.rindex(b"PK\1\2", 0, last)
    data[last + 42 : last + 46] = data[before + 42 : before + 46]
    (tmp_path / "x").write_bytes(data)
    assert "its entries overlap" in message(tmp_path / "x")


def test_an_entry_that_is_larger_than_stated_is_not_unpacked(tmp_path):
    """A stored size is checked; a compressed entry is unpacked up to the size that it states."""
    data = bytearray(zipped(**{"a__data.pkl": b"\x80\x02N.", "a__data__0": bytes(2**16)}))
    last = data.rindex(b"PK\1\2")
    data[last + 24 : last + 28] = (8).to_bytes(4, "little")
    (tmp_path / "x").write_bytes(data)
    assert read_file(tmp_path / "x").content is None


def test_files_of_a_big_endian_machine_are_refused(tmp_path):
    buffer = io.BytesIO(zip_with(b"\x80\x02N."))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert "it was written on a big-endian machine" in message(tmp_path / "x")


def test_a_compressed_archive_is_read(tmp_path):
    """As somebody's zip program makes it from an unpacked one."""
    saved, packed = io.BytesIO(), io.BytesIO()
    torch.save(STATE, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (tmp_path / "x").write_bytes(packed.getvalue())
    found = read_file(tmp_path / "x").content
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)
