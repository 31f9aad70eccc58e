"""Hostile and broken pickles do no harm. Memory and time bombs are in ``test_rebuild.py``."""

import copyreg
import functools
import importlib
import io
import operator
import os
import pickle
import random
import runpy
import struct
import subprocess
import warnings
from pathlib import Path

import numpy as np
import numpy.testing
import pytest
import torch
import torch.utils.collect_env

from msbreg.checkpoints.read import read_file
from msbreg.checkpoints.read.containers import load_legacy, load_pickle, load_zip
from msbreg.checkpoints.read.inert import Inert
from msbreg.run.errors import UserError
from tests.msbreg.checkpoints.read.pickled import (
    FORMS,
    Call,
    foreign_classes,
    legacy_with,
    write,
    zip_with,
)

WEIGHTS = torch.arange(6.0).reshape(2, 3)


def code(folder: Path) -> str:
    return f"open({str(folder / 'marker')!r}, 'w').close()"


def touch(folder: Path) -> str:
    return f"touch {folder / 'marker'}"


def mkdir(folder: Path) -> Call:
    return Call(os.mkdir, str(folder / "marker"))


# Each creates the file or folder "marker" when Python unpickles it.
ATTACKS = {
    f"{os.name}.system": lambda d: Call(os.system, touch(d)),
    "builtins.eval": lambda d: Call(eval, code(d)),
    "builtins.exec": lambda d: Call(exec, code(d)),
    "subprocess.call": lambda d: Call(subprocess.call, touch(d).split()),
    "builtins.getattr": lambda d: Call(
        Call(getattr, Call(importlib.import_module, "os"), "mkdir"), str(d / "marker")
    ),
    "operator.attrgetter": lambda d: Call(
        Call(Call(operator.attrgetter, "mkdir"), Call(importlib.import_module, "os")),
        str(d / "marker"),
    ),
    "functools.partial": lambda d: Call(Call(functools.partial, os.mkdir, str(d / "marker"))),
    "torch.hub._import_module": lambda d: Call(
        torch.hub._import_module, "evil", str(d / "evil.py")
    ),
    "runpy.run_path": lambda d: Call(runpy.run_path, str(d / "evil.py")),
    "pickle.loads": lambda d: Call(pickle.loads, pickle.dumps(mkdir(d))),
    "numpy.load": lambda d: Call(np.load, str(d / "evil.npy"), None, True),
    "numpy.testing._private.utils.runstring": lambda d: Call(
        np.testing._private.utils.runstring, code(d), {}
    ),
    "torch.utils.collect_env.run": lambda d: Call(torch.utils.collect_env.run, touch(d)),
    "torch._utils._import_dotted_name": lambda d: Call(
        Call(getattr, Call(torch._utils._import_dotted_name, "os"), "mkdir"), str(d / "marker")
    ),
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "evil.py").write_text(code(tmp_path))
    np.save(tmp_path / "evil.npy", np.array([mkdir(tmp_path)]), allow_pickle=True)
    return tmp_path


@pytest.mark.parametrize("name", ATTACKS)
def test_the_attacks_work_on_python_itself(folder, name):
    """Otherwise the next test would prove nothing."""
    pickle.loads(pickle.dumps(ATTACKS[name](folder)))
    assert (folder / "marker").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_named_and_not_run(folder, name, form):
    path = write(folder / "x", {"w": WEIGHTS, "attack": ATTACKS[name](folder)}, form)
    with pytest.raises(UserError) as caught:
        read_file(path)
    assert f"{name} " in str(caught.value)
    found = read_file(path, trust_pickle=True)
    assert torch.equal(found.content["w"], WEIGHTS)
    assert any(stub.endswith(name) for stub in found.stubbed)
    assert isinstance(found.content["attack"], Inert)
    assert not (folder / "marker").exists()


def test_names_of_other_operating_systems_are_inert(folder):
    class system:
        pass

    with foreign_classes("nt", system):
        data = pickle.dumps([Call(system, "format c:")])
    (attack,) = load_pickle(data, set())
    assert (attack.name, attack.args) == ("nt.system", ("format c:",))


def test_an_attack_inside_a_storage_is_not_run(folder):
    """A plain pickle stores a tensor's storage as a nested torch.save file."""
    inner = io.BytesIO()
    torch.save(mkdir(folder), inner, _use_new_zipfile_serialization=False)
    load = torch.storage._load_from_bytes
    data = pickle.dumps({"w": Call(load, inner.getvalue())})
    for trust_pickle in (False, True):
        (folder / "x.pkl").write_bytes(data)
        with pytest.raises(
            UserError, match="a storage in it has arguments that no legitimate file"
        ):
            read_file(folder / "x.pkl", trust_pickle=trust_pickle)
    assert not (folder / "marker").exists()


@pytest.mark.parametrize("form", FORMS)
def test_damage_anywhere_is_at_most_a_user_error(tmp_path, form):
    """Random bytes are changed; the file may still be readable, but nothing else may happen."""
    content = {"w": WEIGHTS, "n": np.float32(2), "a": np.arange(3), "o": {1: (None, {2}, 1j)}}
    data = write(tmp_path / "x", content, form).read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        (tmp_path / "x").write_bytes(broken)
        for trust_pickle in (False, True):
            try:
                read_file(tmp_path / "x", trust_pickle=trust_pickle)
            except UserError as error:
                assert "cannot be loaded" in str(error)  # noqa: PT017 (both outcomes are correct)


# -------------------------------------------------------------------------- opcodes by hand

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"
RAW_CALLS = {
    "INST": lambda line: b"(S" + line + b"ios\nsystem\n.",
    "OBJ": lambda line: b"(cos\nsystem\nS" + line + b"o.",
    "REDUCE": lambda line: b"cos\nsystem\nS" + line + b"\x85R.",
    "NEWOBJ": lambda line: b"csubprocess\nPopen\nS" + line + b"\x85\x81.",
    "NEWOBJ_EX": lambda line: b"\x80\x04cos\nsystem\n)}S'command'\nS" + line + b"s\x92.",
    "STACK_GLOBAL": lambda line: b"\x80\x04S'os'\nS'system'\n\x93S" + line + b"\x85R.",
    "a dotted name": lambda line: b"\x80\x04S'os'\nS'system.__call__'\n\x93S" + line + b"\x85R.",
    "the state of a class": lambda line: (
        b"cargparse\nNamespace\n)\x81}S'__setstate__'\ncos\nsystem\nsbS" + line + b"b."
    ),
    "the state of a function": lambda line: (
        b"cmsbreg.errors\nUserError\n}S'__str__'\ncos\nsystem\nsbS" + line + b"\x85R."
    ),
}


@pytest.mark.parametrize("name", RAW_CALLS)
def test_no_opcode_calls_a_named_function(tmp_path, name):
    data = RAW_CALLS[name](repr(f"touch {tmp_path}/marker").encode() + b"\n")
    load_pickle(data, set())
    load_zip(zip_with(data), set())
    load_legacy(legacy_with(data), set())
    (tmp_path / "x").write_bytes(zip_with(data))
    with pytest.raises(UserError, match="cannot be loaded"):
        read_file(tmp_path / "x")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TENSOR + b"}S'__code__'\nNsb.", "sets the state of a Constructor"),
        (ORDERED + b"}S'__init__'\nNsb.", "sets the state of a Constructor"),
        (b"ctorch\nfloat32\n}S'itemsize'\nI9\nsb.", "sets the state of a dtype"),
        (b"ctorch.storage\nUntypedStorage\n)R.", "calls a StorageClass"),
        (b"ctorch.storage\nUntypedStorage\n}S'x'\nI9\nsb.", "sets the state of a"),
        (b"]}S'append'\nNsb.", "sets the state of a list"),
        (b"I1\n)R.", "calls a int"),
        (b"cos\nsystem\nI1\nR.", "its arguments are a int, not a tuple"),
        (TENSOR + b"I0\nI0\ns.", "sets an item of a Constructor"),
        (TENSOR + b"I0\na.", "appends to a Constructor"),
        (b"\x80\x04" + TENSOR + b"(I0\n\x90.", "appends to a Constructor"),
        (b")I0\na.", "appends to a tuple"),
        (b"Pdata\n.", "malformed"),  # PERSID
        (b"(S'module'\nS'x'\ntQ.", None),  # returns only the class, whatever it is
        (b"S'x'\nQ.", "data outside the file"),
        (b"(S'storage'\ntQ.", "a storage in it"),
        (b"\x80\x05\x97.", "malformed"),  # NEXT_BUFFER
        (b"\x80\x05C\x01a\x98.", "malformed"),  # READONLY_BUFFER
        (ORDERED + b")R}S'items'\nI1\nsb.", None),  # ignored; see the next test
    ],
)
def test_real_objects_are_neither_changed_nor_called(data, words):
    if words is None:
        load_pickle(data, set())
    else:
        with pytest.raises(pickle.UnpicklingError, match=words):
            load_pickle(data, set())


def test_a_state_dict_keeps_its_module_versions_and_its_methods():
    data = ORDERED + b")R}(S'items'\nI1\nS'_metadata'\n}S''\n}sub."
    state = load_pickle(data, set())
    assert vars(state) == {"_metadata": {"": {}}}
    assert list(state.items()) == []


def test_extension_codes_of_this_process_are_not_used(tmp_path):
    copyreg.add_extension("posix", "mkdir", 240)
    try:
        data = pickle.dumps(Call(os.mkdir, str(tmp_path / "marker")), 2)
        assert b"\x82\xf0" in data
        with pytest.raises(pickle.UnpicklingError, match="malformed"):
            load_pickle(data, set())
    finally:
        copyreg.remove_extension("posix", "mkdir", 240)
    assert not (tmp_path / "marker").exists()


def test_source_code_in_old_files_is_ignored(tmp_path, monkeypatch):
    """torch.load would warn, or write a patch file to the current folder."""
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    lines = b"(S'module'\ncthe_repository.models\nResNet\nS'models.py'\nS'class ResNet: pass'\ntQ.)"
    stubbed: set[str] = set()
    content = load_legacy(legacy_with(lines[:-1]), stubbed)
    assert content.name == "the_repository.models.ResNet"
    assert sorted(os.listdir(tmp_path)) == before


def test_a_torchscript_program_is_not_interpreted():
    """torch.load would run it; here it becomes records even without ``check_zip``."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Identity(), torch.ones(1)), buffer)
    stubbed: set[str] = set()
    assert isinstance(load_zip(buffer.getvalue(), stubbed), Inert)
    assert [name for name in stubbed if name.startswith("__torch__.")]


def test_names_are_safe_to_print():
    stubbed: set[str] = set()
    load_pickle(b"\x80\x04\x8c\x04a\x1b[2\x8c\x03b\nc\x93.", stubbed)
    load_pickle(b"cm\n" + b"x" * 1000 + b"\n.", stubbed)
    assert "a?[2.b?c" in stubbed
    assert max(map(len, stubbed)) < 210


# ------------------------------------------------------------------------ false lengths


def storage(numel: int, size: str, key: bytes = b"0", stride: str = "I1\n\x85") -> bytes:
    """The opcodes of a float32 tensor."""
    return (
        TENSOR
        + b"((S'storage'\nctorch\nFloatStorage\nS'"
        + key
        + b"'\nS'cpu'\nI%d\nNtQI0\n" % numel
        + size.encode("latin1")
        + stride.encode("latin1")
        + b"I00\n"
        + ORDERED
        + b")RtR"
    )


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"a.",  # BINBYTES8
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",  # BYTEARRAY8
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",  # FRAME
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",  # LONG4
        b"X" + struct.pack("<I", 2**31) + b"a.",  # BINUNICODE
        b"h\x05.",  # a memo entry that does not exist
        b"t.",  # no mark
        b"",
        b"N",
        b"\xff.",
        b"\x80\x63N.",
        b"(I1\nu.",
        b"}]I1\ns.",  # an unhashable key
        b"}" + b")" + b"\x85" * 10_000 + b"I1\ns.",  # a hash that would overflow the C stack
        b"})" + b"2\x86" * 60 + b"I1\ns.",  # a hash that would take 2**60 steps
        b"]" * 50_000 + b"a" * 49_999 + b".",
        b"cbuiltins\nbytearray\nI1099511627776\n\x85R.",
        b"cbuiltins\nbytes\nI1099511627776\n\x85R.",
        b"ctorch\nSize\n(I1099511627776\nI-1\nt\x85R.",
        b"cnumpy\nndarray\n(I1099511627776\n\x85cnumpy\ndtype\nS'f8'\n\x85RS''\ntR.",
        b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nS'f8'\n\x85RS'a'\n\x86R.",
        b"I" + b"9" * 10_000 + b"\n.",
    ],
)
def test_a_broken_stream_is_an_unpickling_error(data):
    with pytest.raises(pickle.UnpicklingError):
        load_pickle(data, set())


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (storage(2, "I2\n\x85"), None),
        (storage(4, "I4\n\x85"), "larger than its data in the file"),
        (storage(2**60, "I2\n\x85"), "larger than its data in the file"),
        (storage(-2, "I2\n\x85"), "a storage in it"),
        (storage(2, "I3\n\x85"), "does not fit in its storage"),
        (storage(2, "I2\n\x85", stride="I1000\n\x85"), "does not fit in its storage"),
        (storage(2, "I2\n\x85", stride="I-1\n\x85"), "a tensor in it"),
        (storage(2, "I2\n\x85", stride="I1\nI1\n\x86"), "a tensor in it"),
        (storage(2, "I1099511627776\n\x85", stride="I0\n\x85"), "more memory or time"),
        (storage(2, "I2\n\x85", key=b"1"), "larger than its data in the file"),
    ],
)
def test_a_tensor_must_lie_within_its_storage(tensor, words):
    data = zip_with(b"\x80\x02" + tensor.replace(b"Nt", b"t", 1) + b".", _0=bytes(8))
    if words is None:
        assert torch.equal(load_zip(data, set()), torch.zeros(2))
    else:
        with pytest.raises(pickle.UnpicklingError, match=words):
            load_zip(data, set())


def test_storages_of_a_legacy_file_are_limited_by_its_size():
    many = b"(" + b"".join(storage(100, "I1\n\x85", key=b"%d" % i) for i in range(9)) + b"t."
    with pytest.raises(pickle.UnpicklingError, match="larger than its data in the file"):
        load_legacy(legacy_with(b"\x80\x02" + many), set())
