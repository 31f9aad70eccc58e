"""Error messages for files that are not checkpoints, or only part of one."""

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
def test_a_truncated_file_is_reported(tmp_path, form):
    path = tmp_path / "x.pth"
    if form == "safetensors":
        safetensors.torch.save_file(STATE, path)
    else:
        write(path, STATE, form)
    data = path.read_bytes()
    for kept in (9, 30, 60, 150, 300, 1000, len(data) - 100, len(data) - 1):
        for trust_pickle in (False, True):
            path.write_bytes(data[:kept])
            assert f"({kept} bytes) cannot be loaded: it is truncated" in message(
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
        warnings.simplefilter("ignore")  # TorchScript is deprecated
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
        (
            b"\n<!DOCTYPE html><html>",
            "a web page, not a checkpoint: the download returned a login or",
        ),
        (b"<?xml version='1.0'?><Error>AccessDenied", "a web page, not a checkpoint"),
        (
            POINTER,
            r"a Git LFS pointer to a file of 102537 bytes, not the file.\nRun `git lfs pull`",
        ),
        (b'{"error": "not found"}', 'it is a text file that begins with \'{"error"'),
        (b"Entry not found", "it is a text file that begins with 'Entry not found'"),
        (gzip.compress(b"x"), r"it is compressed \(gzip\).\nDecompress it first \(gunzip"),
        (lzma.compress(b"x"), r"it is compressed \(xz\)"),
        (b"7z\xbc\xaf\x27\x1c", r"it is compressed \(7z\)"),
        (b"Rar!\x1a\x07", r"it is compressed \(rar\)"),
        (
            tar(**{"a.pth": b"x"}),
            r"a tar archive of other files \(a.pth\).\nExtract it first \(tar",
        ),
        (
            tar(sys_info=b"", storages=b"", tensors=b"", pickle=b""),
            "it is a tar archive of storages",
        ),
        (
            zipped(**{"a__1.pth.tar": b"x", "a__b": b"y"}),
            r"a zip archive of other files \(a/1.pth.tar, a/b\).\nExtract it first \(unzip\)",
        ),
        (zipped(), "it is a zip archive.\nExtract"),
        (zipped(**{"w.npy": b"x"}), "an archive of NumPy arrays"),
        (script(), r"a TorchScript archive, a program rather than weights.\n.*\n.*torch.jit.load"),
        (
            zipped(
                **{"a__data.pkl": b"\x80\x02N.", "a__version": b"3\n", "a__data__0": bytes(2**23)}
            ),
            "it would expand to 83",
        ),
        (
            b"\x89HDF\r\n\x1a\n",
            "an HDF5 file, such as Keras weights.\nExpected a checkpoint saved",
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
def test_the_message_says_what_the_file_is(tmp_path, data, words):
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    for trust_pickle in (False, True):
        with pytest.raises(UserError, match=words) as caught:
            read_file(path, trust_pickle=trust_pickle)
        assert str(caught.value).startswith(f"{path} ({len(data)} bytes) cannot be loaded: ")
        assert "\n" in str(caught.value)  # followed by the remedy


@pytest.mark.parametrize(
    "name", ["model.ckpt-225206.data-00000-of-00001", "model.ckpt-225206.meta", "a.ckpt.index"]
)
def test_parts_of_a_tensorflow_checkpoint_are_recognized_by_name(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x01\x02")
    assert "it is part of a TensorFlow checkpoint" in message(tmp_path / name)


def test_the_prefix_and_the_folder_of_a_tensorflow_checkpoint_are_recognized(tmp_path):
    (tmp_path / "model.ckpt-1.index").write_bytes(TABLE)
    assert "is the prefix of a TensorFlow checkpoint" in message(tmp_path / "model.ckpt-1")
    assert "is a folder with a TensorFlow checkpoint" in message(tmp_path)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "is a folder; expected a file such as runs/pretrain/checkpoint.pth"),
        (
            ["config.json", "a.bin", "model.safetensors"],
            r"Pass the file inside it: .*/model.safetensors",
        ),
        (["config.json", "pytorch_model.bin"], "Pass the file inside it: .*/pytorch_model.bin$"),
        (["b.ckpt", "a.ckpt"], r"Pass the file inside it: .*/a.ckpt \(2 such files\)"),
        (["saved_model.pb"], "is a folder with a TensorFlow checkpoint"),
    ],
)
def test_the_message_for_a_folder_names_the_file_to_pass(tmp_path, names, words):
    for name in names:
        (tmp_path / name).write_text("x")
    with pytest.raises(UserError, match=words):
        read_file(tmp_path)


def test_a_missing_file_is_reported(tmp_path):
    assert "does not exist; expected a file such as" in message(tmp_path / "x.pth")
    (tmp_path / "file").write_text("x")
    assert "does not exist" in message(tmp_path / "file" / "x.pth")
    assert "is a URL" in message(Path("https://host/x.pth"))


def test_a_file_without_permission_is_reported(tmp_path):
    path = write(tmp_path / "x.pth", STATE, "zip")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root can read everything
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
    """They do not begin with a protocol opcode."""
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    assert read_file(tmp_path / "x.pkl").content == content


def test_the_header_of_safetensors_is_checked(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}).encode()
    path = tmp_path / "x"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "it is damaged, or not a valid safetensors file" in message(path)


# ---------------------------------------------------------------------- inconsistent archives


def test_an_archive_after_other_bytes_is_rejected(tmp_path):
    """Python locates its table of contents from the end, PyTorch from the beginning."""
    (tmp_path / "x").write_bytes(zip_with(b"\x80\x02N.") + zip_with(b"\x80\x02N."))
    assert "its table of contents does not cover the whole file" in message(tmp_path / "x")


def test_entries_with_the_same_name_are_rejected(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python warns about the duplicate name
        for content in (b"\x80\x02N.", b"\x80\x02]."):
            archive.writestr("a/data.pkl", content)
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert "two entries have the same name" in message(tmp_path / "x")


def test_overlapping_entries_are_rejected(tmp_path):
    data = bytearray(zip_with(b"\x80\x02N.", _0=bytes(8), _1=bytes(8)))
    last = data.rindex(b"PK\1\2")
    before = data.rindex(b"PK\1\2", 0, last)
    data[last + 42 : last + 46] = data[before + 42 : before + 46]
    (tmp_path / "x").write_bytes(data)
    assert "its entries overlap" in message(tmp_path / "x")


def test_an_entry_is_decompressed_only_up_to_its_stated_size(tmp_path):
    """The compressed entry states 8 bytes but contains 64 KiB."""
    data = bytearray(zipped(**{"a__data.pkl": b"\x80\x02N.", "a__data__0": bytes(2**16)}))
    last = data.rindex(b"PK\1\2")
    data[last + 24 : last + 28] = (8).to_bytes(4, "little")
    (tmp_path / "x").write_bytes(data)
    assert read_file(tmp_path / "x").content is None


def test_files_from_a_big_endian_machine_are_rejected(tmp_path):
    buffer = io.BytesIO(zip_with(b"\x80\x02N."))
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("archive/byteorder", "big")
    (tmp_path / "x").write_bytes(buffer.getvalue())
    assert "it was written on a big-endian machine" in message(tmp_path / "x")


def test_a_compressed_archive_is_read(tmp_path):
    """Made by extracting a checkpoint and compressing it with a zip program."""
    saved, packed = io.BytesIO(), io.BytesIO()
    torch.save(STATE, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (tmp_path / "x").write_bytes(packed.getvalue())
    found = read_file(tmp_path / "x").content
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)
