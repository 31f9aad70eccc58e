import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from msbreg.backbones.resnet import build_backbone, embed, normalize
from msbreg.backbones.trained import photographs
from msbreg.checkpoints.layouts import FORMATS
from msbreg.checkpoints.load import save_checkpoint
from tests.msbreg.backbones.toy_transformers import (
    DINOV2,
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.msbreg.checkpoints.layouts.vit_files import FILES
from tools.inspect_checkpoint import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def trained():
    """Make states that look trained: statistics of photographs, and changed biases."""

    def make(arch):
        generator = torch.Generator().manual_seed(0)
        backbone = build_backbone(arch, seed=0).train()
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
                module.bias.data = 0.1 * torch.rand(module.bias.shape, generator=generator)
        with torch.no_grad():
            embed(backbone, normalize(photographs(64, 16), torch.device("cpu")))
        return backbone.state_dict()

    return make


def ours(path, state, arch="resnet18-tiny"):
    config = {"method": "msbreg", "views": 4, "epochs": 1, "batch_size": 8, "seed": 0}
    save_checkpoint(
        path,
        {
            "arch": arch,
            "image_size": 32,
            "step": 3,
            "steps": 9,
            "config": config,
            "online": {f"backbone.{k}": v for k, v in state.items()},
            "target": {f"backbone.{k}": v for k, v in state.items()},
        },
    )
    return path


def moco(path, state):
    """A MoCo file; the key encoder shares the tensors of the query encoder to save space."""
    content = {}
    for encoder in ("encoder_q", "encoder_k"):
        content |= {f"module.{encoder}.{k}": v for k, v in state.items()}
        content[f"module.{encoder}.fc.weight"] = torch.ones(2, 512)
        content[f"module.{encoder}.fc.bias"] = torch.ones(2)
    content |= {"module.queue": torch.ones(2, 8), "module.queue_ptr": torch.zeros(1)}
    torch.save({"epoch": 9, "arch": "resnet18", "state_dict": content, "optimizer": {}}, path)
    return path


def as_json(capsys, *arguments):
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_our_trained_checkpoint_exits_0_and_names_the_next_commands(tmp_path, trained, capsys):
    path = ours(tmp_path / "ours.pth", trained("resnet18-tiny"))
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert "container  torch zip, " in out
    assert "initial weight and bias   0 of 20" in out
    assert "its random twin" in out
    assert "Verdict: trained" in out
    assert f"python transfer/knn.py --checkpoint {path}" in out
    assert f"python tools/convert_to_d2.py {path} --to safetensors" in out


def test_a_random_network_exits_1_with_both_kinds_of_signs(tmp_path, capsys):
    path = tmp_path / "random.pth"
    torch.save(build_backbone("resnet18", seed=3).state_dict(), path)
    code, facts = as_json(capsys, path)
    assert code == 1
    assert facts["layout"]["family"] == "torchvision"
    assert facts["norms"]["affine_initial"] == facts["norms"]["layers"] == 20
    assert facts["verdict"] == "not trained"
    untouched, features = facts["signs"]
    assert untouched.startswith("untouched initialization")
    assert features.startswith("features look like those of a random network")
    assert facts["next"] == []


def test_a_moco_file_shows_the_network_used_and_the_keys_dropped(tmp_path, trained, capsys):
    path = moco(tmp_path / "moco.pth.tar", trained("resnet18"))
    code, facts = as_json(capsys, path, "--no-features")
    assert code == 0
    layout = facts["layout"]
    assert (layout["family"], layout["arch"]) == ("moco", "resnet18")
    assert (layout["encoder"], layout["present"]) == ("query", ["query", "momentum"])
    assert layout["tensors"] == 120
    dropped = {row["keys"]: row["count"] for row in facts["dropped"]}
    assert dropped == {"encoder_q.*": 2, "encoder_k.*": 122, "queue": 1, "queue_ptr": 1}
    assert "features" not in facts


def test_the_requested_encoder_is_used_and_repeated_in_the_next_commands(tmp_path, trained, capsys):
    path = ours(tmp_path / "ours.pth", trained("resnet18-tiny"))
    code, facts = as_json(capsys, path, "--encoder", "target backbone", "--no-features")
    assert code == 0
    assert facts["layout"]["encoder"] == "target backbone"
    assert all("--encoder 'target backbone'" in command for command in facts["next"])


def test_an_unknown_file_shows_the_closest_layouts_and_its_groups_of_keys(tmp_path, capsys):
    path = tmp_path / "unknown.pth"
    net = {f"module.enc.{k}": v for k, v in build_backbone("resnet18-tiny").state_dict().items()}
    torch.save({"epoch": 3, "net": net, "opt": {"state": {0: {"m": torch.ones(2)}}}}, path)
    assert main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert "epoch  3" in out
    assert "net    module.enc.*  120    module.enc.conv1.weight  float32 (32, 3, 3, 3)" in out
    assert "opt    state.0.*     1" in out
    assert "unknown.pth matches no known checkpoint layout." in err
    assert "inspect_checkpoint.py unknown" not in err, "it would recommend this very command"


def test_a_dict_with_many_paths_to_it_is_listed_once(tmp_path, capsys):
    content = {"weight": torch.ones(2)}
    for _ in range(3):
        content = {f"k{index}": content for index in range(10)}
    torch.save({"shared": content, "again": content}, tmp_path / "shared.pth")
    code, facts = as_json(capsys, tmp_path / "shared.pth")
    assert code == 2
    assert [(row["entry"], row["count"]) for row in facts["keys"]] == [("shared", 1)]


def test_a_file_with_too_many_keys_is_an_error_that_shows_the_first(tmp_path, capsys):
    one = torch.ones(())
    keys = {f"backbone.layer{index}.conv.weight": one for index in range(25_000)}
    torch.save({"epoch": 1, "state_dict": keys}, tmp_path / "many.pth")
    code, facts = as_json(capsys, tmp_path / "many.pth")
    assert code == 2
    assert "a state dict (state_dict) has more than 20,000 keys" in facts["error"]
    assert sum(row["count"] for row in facts["keys"]) == 20_000


def test_objects_are_listed_and_not_run(tmp_path, trained, capsys):
    path = tmp_path / "objects.pth"
    content = {"state_dict": {}, "options": argparse.Namespace(lr=1)}
    torch.save(content, path)
    assert main([str(path)]) == 2
    assert "--trust-pickle" in capsys.readouterr().err
    code, facts = as_json(capsys, path, "--trust-pickle")
    assert code == 2
    assert facts["file"]["stubbed"] == ["argparse.Namespace"]
    assert {"entry": "options", "is": "dict of 1"} in facts["entries"]


def test_impossible_statistics_are_an_error_after_the_known_facts(tmp_path, trained, capsys):
    state = trained("resnet18-tiny")
    state["bn1.running_var"][0] = -1.0
    code, facts = as_json(capsys, ours(tmp_path / "broken.pth", state))
    assert code == 2
    assert facts["layout"]["family"] == "msbreg"
    assert "bn1.running_var: 1 of 32 values are negative" in facts["error"]


def test_features_that_are_not_finite_are_null_in_json(tmp_path, trained, capsys):
    state = trained("resnet18-tiny")
    state["layer4.1.bn2.weight"].fill_(3e38)
    code, facts = as_json(capsys, ours(tmp_path / "overflow.pth", state))
    assert code == 1
    assert facts["features"]["own"]["cosine"] is None
    assert facts["signs"][0].startswith("features of ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("page.pth", b"<!DOCTYPE html><html>sign in</html>", "it is a web page"),
        ("empty.pth", b"", "it is empty"),
        ("cut.pth", b"PK\x03\x04 and no more", "cannot be loaded"),
    ],
)
def test_a_file_that_is_not_a_checkpoint_exits_2_with_one_message(
    tmp_path, capsys, name, content, message
):
    path = tmp_path / name
    path.write_bytes(content)
    assert main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert "Traceback" not in err


def test_a_wrong_path_exits_2_with_json(tmp_path, capsys):
    code, facts = as_json(capsys, tmp_path / "none.pth")
    assert code == 2
    assert "does not exist" in facts["error"]
    assert facts["verdict"] == "not loadable"


@pytest.mark.parametrize("arguments", [[], ["x.pth", "--list"], ["x.pth", "--arch", "resnet51"]])
def test_invalid_arguments_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_list_shows_every_layout(capsys):
    assert main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {row.name} " in out for row in FORMATS)
    assert main(["--list", "--json"]) == 0
    assert [row["family"] for row in json.loads(capsys.readouterr().out)] == [
        row.name for row in FORMATS
    ]


def test_a_terminal_shows_tables(tmp_path, trained, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = ours(tmp_path / "ours.pth", trained("resnet18-tiny"))
    assert main([str(path), "--no-features"]) == 0
    out = capsys.readouterr().out
    assert "│ container" in out
    assert "Verdict: trained" in out


def test_it_runs_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "tools" / "inspect_checkpoint.py"), "none.pth"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: checkpoint none.pth does not exist")
    assert done.stdout == ""


@pytest.mark.usefixtures("toys")
def test_a_transformer_shows_its_positions_and_has_no_conversion(tmp_path, capsys):
    path = tmp_path / "dinov2.pth"
    torch.save(FILES["DINOv2"][2](timm_model(DINOV2), None), path)
    code, facts = as_json(capsys, path)
    assert (code, facts["verdict"]) == (0, "trained")
    layout = facts["layout"]
    assert (layout["family"], layout["positions"], layout["image_size"]) == ("dinov2", "offset", 40)
    assert [row["keys"] for row in facts["dropped"]] == ["mask_token"]
    assert facts["next"] == [f"python transfer/knn.py --checkpoint {path}"]
    assert not {"norms", "features"} & set(facts)
    assert main([str(path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"positions +of 40 pixels; other sizes: offset\n", out)
    assert "stride" not in out
