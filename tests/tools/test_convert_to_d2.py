"""tools/convert_to_d2.py: defaults, output and exit codes."""

import json
import pickle
import re
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from msbreg.checkpoints.load import file_sha256
from tests.msbreg.backbones.toy_transformers import (
    PLAIN,
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.msbreg.checkpoints.convert.realistic_networks import write_checkpoint
from tests.transfer.report.records import network, write_knn
from tools.convert_to_d2 import main
from transfer.detectors import detectron2_engine

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "convert_to_d2.py"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source") / "checkpoint.pth")


@pytest.fixture
def checkpoint(source, tmp_path):
    path = tmp_path / "run" / "checkpoint.pth.tar"
    path.parent.mkdir()
    path.hardlink_to(source)
    return path


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_the_default_is_a_detectron2_pickle_next_to_the_checkpoint(checkpoint, capsys):
    assert main([str(checkpoint)]) == 0
    output = checkpoint.with_name("checkpoint_d2.pkl")
    content = pickle.loads(output.read_bytes(), encoding="latin1")
    assert content["msbreg"]["provenance"]["sha256"] == file_sha256(checkpoint)
    certificate = json.loads(output.with_name(output.name + ".certificate.json").read_text())
    assert certificate["passed"] is True
    assert capsys.readouterr().out.count("120/120") == len(certificate["readings"]) - (
        1 if detectron2_engine.available() else 0  # 100/100 with frozen norms
    )


def test_the_settings_are_printed_as_yaml(checkpoint, capsys):
    assert main([str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert "PIXEL_MEAN: [123.675, 116.28, 103.53]" in out
    assert "STRIDE_IN_1X1: false, STEM_OUT_CHANNELS: 32, RES2_OUT_CHANNELS: 32" in out
    assert f"WEIGHTS: {checkpoint.with_name('checkpoint_d2.pkl')}" in out
    assert "FORMAT: RGB" in out


def test_the_suffix_of_the_output_selects_the_format(checkpoint, tmp_path):
    assert main([str(checkpoint), "-o", str(tmp_path / "d2.pth")]) == 0
    assert (tmp_path / "d2.pth").read_bytes()[:2] == b"PK"


def test_a_second_run_needs_overwrite(checkpoint, capsys):
    assert main([str(checkpoint), "--to", "mmseg"]) == 0
    assert main([str(checkpoint), "--to", "mmseg"]) == 2
    assert "checkpoint_mmseg.pth exists" in capsys.readouterr().err
    assert main([str(checkpoint), "--to", "mmseg", "--overwrite"]) == 0


@pytest.mark.skipif(
    find_spec("transformers") is not None,
    reason="transformers is installed and warns when it is imported",
)
def test_huggingface_gets_a_folder(checkpoint):
    assert main([str(checkpoint), "--to", "huggingface"]) == 0
    assert "model.safetensors" in files(checkpoint.with_name("checkpoint_hf"))


def test_a_published_backbone_has_a_card_with_its_scores(checkpoint, tmp_path):
    runs = tmp_path / "runs"
    write_knn(runs / "mine", 61.2, network(sha256=file_sha256(checkpoint)))
    write_knn(runs / "other", 33.3, network(1))
    assert main([str(checkpoint), "--to", "safetensors", "--runs", str(runs)]) == 0
    card = checkpoint.with_name("checkpoint_backbone.md").read_text()
    assert re.search(r"\| 20-NN top-1 \(.*\) \| digits val, 500 images \| 61.2 ± 2.0 \|", card)
    assert "33.3" not in card


def test_the_card_describes_the_pretraining_from_the_record_next_to_the_checkpoint(checkpoint):
    record = {
        "schema": 1,
        "kind": "pretrain",
        "status": "done",
        "digest": "0" * 12,
        "started": "2026-01-01T10:00:00+0000",
        "seconds": 60.0,
        "warnings": [],
        "command": "pretrain/run.py --views 2",
        "card": "digits_msbreg",
        "environment": {"commit": "0123456789ab"},
        "config": {"views": 2},
        "results": {"sha256": file_sha256(checkpoint)},
    }
    (checkpoint.parent / "record.json").write_text(json.dumps(record))
    assert main([str(checkpoint), "--to", "safetensors"]) == 0
    card = checkpoint.with_name("checkpoint_backbone.md").read_text()
    assert "pretrain/run.py --views 2" in card
    assert "0123456789ab" in card


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "{folder}"], "only --to safetensors writes"),
        (["--to", "safetensors", "--runs", "{folder}/none"], "does not exist"),
        (["-o", "{folder}/nowhere/out.pkl"], "does not exist; create it or choose another -o"),
        (["-o", "{folder}/out.onnx"], "detectron2 expects .pkl or .pth"),
        (["--encoder", "third"], "third"),
        (["--arch", "resnet50"], "resnet50"),
        (["--to", "timm"], "timm cannot express this backbone"),
    ],
)
def test_invalid_options_are_one_message_and_exit_code_2(checkpoint, capsys, arguments, message):
    arguments = [word.format(folder=checkpoint.parent) for word in arguments]
    assert main([str(checkpoint), *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert files(checkpoint.parent) == {checkpoint.name}


def test_runs_without_an_evaluation_of_these_weights_are_an_error(checkpoint, tmp_path, capsys):
    write_knn(tmp_path / "runs" / "other", 33.3, network(1))
    arguments = ["--to", "safetensors", "--runs", str(tmp_path / "runs")]
    assert main([str(checkpoint), *arguments]) == 2
    assert "no completed evaluation of this checkpoint" in capsys.readouterr().err


def test_the_error_for_a_small_image_stem_names_the_alternative(tmp_path, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint.pth", "resnet18-tiny")
    assert main([str(checkpoint)]) == 2
    assert "`--to safetensors` writes any backbone" in capsys.readouterr().err
    assert files(tmp_path) == {"checkpoint.pth"}


@pytest.mark.parametrize("arguments", [["x.pth", "--to", "onnx"], [], ["x.pth", "--too", "timm"]])
def test_malformed_command_lines_are_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_wrong_path_is_one_message_in_any_folder(tmp_path):
    command = [sys.executable, str(SCRIPT), "nowhere.pth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "nowhere.pth" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_message_and_leaves_no_files(checkpoint, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, hard))
    try:
        assert main([str(checkpoint)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "nothing was written" in capsys.readouterr().err
    assert files(checkpoint.parent) == {checkpoint.name}


def test_the_float32_difference_is_printed_beside_the_float64_one(checkpoint, capsys):
    assert main([str(checkpoint)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (single,) = [line for line in lines if line.strip().startswith("in float32")]
    numbers = [float(word) for word in single.split()[2:]]
    assert len(numbers) == 5  # stem, res2 to res5
    assert all(0 < number < 1e-3 for number in numbers)


@pytest.mark.usefixtures("toys")
def test_a_transformer_is_refused_and_nothing_is_written(tmp_path, capsys):
    torch.save(timm_model(PLAIN).state_dict(), tmp_path / "vit.pth")
    assert main([str(tmp_path / "vit.pth")]) == 2
    assert "vit_base_toy is a vision transformer, and only ResNets" in capsys.readouterr().err
    assert files(tmp_path) == {"vit.pth"}
