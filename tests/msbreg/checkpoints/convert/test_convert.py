"""An output is complete and certified, or it does not exist."""

import hashlib
import json
import pickle
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from msbreg.checkpoints.convert.convert import TARGETS, convert
from msbreg.run.errors import RunFailed, UserError
from tests.msbreg.checkpoints.convert.realistic_networks import moved, provenance
from tests.msbreg.checkpoints.convert.test_target import globals_of
from tests.processes import run_code

ROOT = Path(__file__).resolve().parents[4]
DETECTRON2, HUGGINGFACE = TARGETS["detectron2"], TARGETS["huggingface"]
FORMULAS_ONLY = replace(HUGGINGFACE, readers=())  # whether or not transformers is installed


def test_the_detectron2_pickle_refers_only_to_ndarray_and_bytearray(tmp_path):
    output = tmp_path / "out.pkl"
    convert(moved(), provenance(), output, DETECTRON2)
    assert globals_of(output.read_bytes()) == {"numpy.ndarray", "builtins.bytearray"}


def test_the_certificate_is_in_the_file_and_next_to_it_with_its_sha256(tmp_path):
    output = tmp_path / "out.pkl"
    convert(moved(), provenance(), output, DETECTRON2)
    outside = json.loads((tmp_path / "out.pkl.certificate.json").read_text())
    inside = pickle.loads(output.read_bytes(), encoding="latin1")["msbreg"]["certificate"]
    assert outside["sha256"] == {"out.pkl": hashlib.sha256(output.read_bytes()).hexdigest()}
    assert {k: v for k, v in outside.items() if k not in ("sha256", "file")} == inside
    assert inside["passed"] is True
    assert inside["source"]["sha256"] == "ab" * 32
    assert set(inside["readings"][0]["errors"]) == {"65x96"}
    assert set(inside["readings"][0]["errors"]["65x96"]) == {
        "stem",
        "res2",
        "res3",
        "res4",
        "res5",
    }


def test_the_file_contains_no_local_paths(tmp_path):
    output = tmp_path / "out.pkl"
    convert(moved(), provenance(), output, DETECTRON2)
    assert b"/somewhere/else" not in output.read_bytes()
    assert str(tmp_path).encode() not in output.read_bytes()


def test_an_existing_output_is_replaced_only_with_overwrite(tmp_path):
    output = tmp_path / "out.pkl"
    output.write_text("mine")
    with pytest.raises(UserError, match=r"out\.pkl exists; .* --overwrite"):
        convert(moved(), provenance(), output, DETECTRON2)
    assert output.read_text() == "mine"
    convert(moved(), provenance(), output, DETECTRON2, overwrite=True)
    assert output.stat().st_size > 1_000_000


def test_a_failed_conversion_keeps_the_existing_output(tmp_path):
    output = tmp_path / "out.pkl"
    output.write_text("mine")
    broken = replace(DETECTRON2, express=lambda spec: {})
    with pytest.raises(KeyError):
        convert(moved(), provenance(), output, broken, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.pkl"]
    assert output.read_text() == "mine"


def test_a_folder_is_written_completely_and_keeps_its_other_files(tmp_path):
    output = tmp_path / "out"
    convert(moved(), provenance(), output, FORMULAS_ONLY)
    names = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "preprocessor_config.json"} <= names
    (output / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        convert(moved(), provenance(), output, FORMULAS_ONLY)
    convert(moved(), provenance(), output, FORMULAS_ONLY, overwrite=True)
    assert {path.name for path in output.iterdir()} == names | {"notes.txt"}


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        ("out.onnx", DETECTRON2, r"has the suffix \.onnx; detectron2 expects \.pkl or \.pth"),
        ("out", DETECTRON2, r"has the suffix \(none\)"),
        ("nowhere/out.pkl", DETECTRON2, "nowhere does not exist"),
        ("folder.pkl", DETECTRON2, "is a folder; detectron2 writes a file"),
        ("file", HUGGINGFACE, "is a file; huggingface writes a folder"),
    ],
)
def test_an_invalid_output_is_an_error_before_anything_is_written(
    tmp_path, output, target, message
):
    (tmp_path / "folder.pkl").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=message):
        convert(moved(), provenance(), tmp_path / output, target, overwrite=True)


@pytest.mark.parametrize("target", [DETECTRON2, FORMULAS_ONLY], ids=["file", "folder"])
def test_an_interruption_leaves_no_files(tmp_path, target):
    def interrupted(path, settings, images):
        assert path.exists()
        raise KeyboardInterrupt

    output = tmp_path / ("out" + (target.suffixes or ("",))[0])
    with pytest.raises(KeyboardInterrupt):
        convert(moved(), provenance(), output, target, readers=(interrupted,))
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from msbreg.checkpoints.convert.convert import TARGETS, convert
from tests.msbreg.checkpoints.convert.realistic_networks import moved, provenance

def killed(path, settings, images):
    os.kill(os.getpid(), signal.SIGKILL)

convert(moved(), provenance(), Path(sys.argv[1]), TARGETS["detectron2"], readers=(killed,))
"""


def test_a_killed_process_leaves_no_output(tmp_path):
    output = tmp_path / "out.pkl"
    code, _, message = run_code(KILLED, output)
    assert code == -signal.SIGKILL, message
    assert not list(tmp_path.glob("out*"))


def test_without_its_certificate_no_output_is_written(tmp_path):
    (tmp_path / "out.pkl.certificate.json").mkdir()
    (tmp_path / "out.pkl.certificate.json" / "mine").touch()
    with pytest.raises(RunFailed, match="nothing was written"):
        convert(moved(), provenance(), tmp_path / "out.pkl", DETECTRON2, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out.pkl.certificate.json"]
