"""What a hostile or broken pickle can do: nothing."""

import functools
import importlib
import io
import operator
import os
import pickle
import random
import runpy
import subprocess
from pathlib import Path

import numpy as np
import numpy.testing
import pytest
import torch
import torch.utils.collect_env

from msbreg.checkpoints.read import read_file
from msbreg.checkpoints.read.unpickle import Inert, load_plain
from msbreg.run.errors import UserError
from tests.msbreg.checkpoints.read.pickled import FORMS, Call, strangers, write

WEIGHTS = torch.arange(6.0).reshape(2, 3)


def code(folder: Path) -> str:
    return f"open({str(folder / 'marker')!r}, 'w').close()"


def touch(folder: Path) -> str:
    return f"touch {folder / 'marker'}"


def mkdir(folder: Path) -> Call:
    return Call(os.mkdir, str(folder / "marker"))


# Each makes the file or folder "marker" when it is unpickled by Python.
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
def test_the_attacks_work_on_python(folder, name):
    """Else the next test would prove nothing."""
    pickle.loads(pickle.dumps(ATTACKS[name](folder)))
    assert (folder / "marker").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_named_and_never_run(folder, name, form):
    path = write(folder / "x", {"w": WEIGHTS, "attack": ATTACKS[name](folder)}, form)
    with pytest.raises(UserError) as refused:
        read_file(path)
    assert f"{name} " in str(refused.value)
    found = read_file(path, trust_pickle=True)
    assert torch.equal(found.content["w"], WEIGHTS)
    assert any(stub.endswith(name) for stub in found.stubbed)
    assert isinstance(found.content["attack"], Inert)
    assert not (folder / "marker").exists()


def test_a_name_of_another_system_is_as_inert(folder):
    class system:
        pass

    with strangers("nt", system):
        data = pickle.dumps([Call(system, "format c:")])
    (attack,) = load_plain(data, stubbed=set())
    assert (attack.name, attack.args) == ("nt.system", ("format c:",))


def test_a_storage_that_is_an_attack_is_not_run(folder):
    """A plain pickle keeps a tensor's storage as a file of torch.save inside of itself."""
    inner = io.BytesIO()
    torch.save(mkdir(folder), inner, _use_new_zipfile_serialization=False)
    load = torch.storage._load_from_bytes
    data = pickle.dumps({"w": Call(load, inner.getvalue())})
    for trust_pickle in (False, True):
        (folder / "x.pkl").write_bytes(data)
        with pytest.raises(UserError, match="a storage in it has arguments that no honest file"):
            read_file(folder / "x.pkl", trust_pickle=trust_pickle)
    assert not (folder / "marker").exists()


@pytest.mark.parametrize("form", FORMS)
def test_damage_anywhere_is_an_error_of_the_user(tmp_path, form):
    """Bytes of the whole file are changed at random; what is read may differ, nothing else may."""
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
                assert "cannot be loaded" in str(error)  # noqa: PT017 (either way is right)
