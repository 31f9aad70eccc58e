"""The gate, from checkpoints that learned, collapsed or were never trained, to its verdict."""

import copy
import shutil
from pathlib import Path

import pytest
import torch

from msbreg.backbones.resnet import ResNet, build_backbone, normalize
from msbreg.run.errors import UserError
from msbreg.run.record import read_record
from tests.msbreg.backbones.toy_transformers import PLAIN, timm_model, toys
from tests.msbreg.checkpoints.layouts.vit_files import FILES
from tests.transfer.labeled_voc import write_labeled_voc
from tests.transfer.trained_digits import ARCH, trained_on_digits, write_checkpoint
from transfer import gate
from transfer.scoring.scores import score_from_dict

__all__ = ["toys"]


@pytest.fixture(scope="module")
def trained() -> ResNet:
    return trained_on_digits(100)


MANY = {"bank": 300, "queries": 150, "twins": 2}
"""Enough images to show that a network has learned."""


def config(tmp_path: Path, checkpoint: object, **options) -> gate.Config:
    settings = {"data": "digits", "device": "cpu", "workers": 1}
    settings |= {"bank": 100, "queries": 50, "twins": 1}
    return gate.Config(checkpoint=str(checkpoint), output=tmp_path / "run", **settings | options)


def gated(tmp_path: Path, backbone: ResNet, **options) -> dict:
    path = write_checkpoint(tmp_path / "checkpoint.pth", backbone)
    return gate.run(config(tmp_path, path, **options))


def edited(backbone: ResNet, change) -> ResNet:
    copied = copy.deepcopy(backbone)
    with torch.no_grad():
        change(copied)
    return copied


def test_a_trained_network_has_learned_and_its_record_says_why(tmp_path, trained, capsys):
    path = write_checkpoint(tmp_path / "checkpoint.pth", trained)
    results = gate.run(config(tmp_path, path, **MANY))
    assert results["verdict"] == "learned"
    record = read_record(tmp_path / "run")
    assert (record["kind"], record["status"], record["results"]) == ("gate", "done", results)
    own, twin, difference = map(score_from_dict, record["scores"])
    assert own.name == "gate 20-NN top-1"
    assert own.value == results["comparison"]["own"]
    assert twin.value == max(results["comparison"]["twins"])
    assert difference.value == pytest.approx(own.value - twin.value)
    found = results["comparison"]["difference"]
    assert 2 < found["low"] < difference.value < found["high"]
    assert own.data.split == "train (held out)"
    assert list(record["data"]) == ["train"]
    assert record["warnings"] == []
    capsys.readouterr()
    gate.run_as_script(config(tmp_path, path, **MANY, finished="skip"), gate.Card())
    assert capsys.readouterr().out.startswith("learned: 20-NN top-1")  # of the completed run


def test_a_first_look_at_few_images_is_conclusive_if_the_network_is_far_better(tmp_path, trained):
    results = gated(tmp_path, trained, bank=1000, queries=500, twins=2)
    assert results["verdict"] == "learned"
    assert results["bank"] + results["queries"] == 300
    assert len(results["comparison"]["twins"]) == 1
    assert "(99 % interval" in results["reasons"][0]
    assert results["comparison"]["difference"]["confidence"] == 0.99


def test_more_images_decide_if_a_first_look_is_not_conclusive(tmp_path, trained, capsys):
    def shuffle(backbone: ResNet) -> None:  # the trained weights of a layer, connected at random
        weight = backbone.conv1.weight
        order = torch.randperm(weight.numel(), generator=torch.Generator().manual_seed(0))
        weight.copy_(weight.flatten()[order].view_as(weight))

    results = gated(tmp_path, edited(trained, shuffle), bank=1000, queries=500, twins=2)
    assert results["bank"] + results["queries"] > 900
    assert len(results["comparison"]["twins"]) == 2
    assert "not conclusive at 300 images; drawing more" in capsys.readouterr().err
    assert "(95 % interval" in results["reasons"][0]


def test_an_untrained_network_is_recognized_at_the_first_look(tmp_path):
    results = gated(tmp_path, build_backbone(ARCH, seed=5), bank=1000, queries=500)
    assert results["verdict"] == "not learned"
    assert results["bank"] + results["queries"] == 300


@pytest.mark.parametrize(
    ("bank", "queries", "images", "looks"),
    [
        (1000, 500, 600, 2),
        (1000, 500, 599, 1),
        (400, 200, 10**6, 2),
        (399, 2000, 10**6, 1),
        (2000, 199, 10**6, 1),
    ],
)
def test_a_first_look_is_taken_if_it_saves_much(bank, queries, images, looks):
    *first, last = gate.Config(bank=bank, queries=queries).looks(images)
    assert len(first) == looks - 1
    assert last == (bank, queries, 2, 0.95)


def test_an_untrained_network_has_not_learned(tmp_path):
    results = gated(tmp_path, build_backbone(ARCH, seed=5))
    assert results["verdict"] == "not learned"
    assert results["reasons"][0].startswith("all 20 norm layers are as initialized")


def test_a_random_network_is_not_its_own_twin(tmp_path):
    results = gate.run(config(tmp_path, "random", arch=ARCH))
    assert results["verdict"] == "not learned"
    differing = results["comparison"]["difference"]
    assert differing["first_only"] + differing["second_only"] > 0


def test_a_network_that_only_ran_forward_has_not_learned(tmp_path):
    backbone = build_backbone(ARCH, seed=5).train()
    noise = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for _ in range(20):
            backbone(normalize(noise.to(torch.uint8), torch.device("cpu")))
    results = gated(tmp_path, backbone)
    assert results["verdict"] != "learned"
    warnings = read_record(tmp_path / "run")["warnings"]
    assert any("forward passes without training" in warning for warning in warnings)


def test_a_collapsed_network_has_not_learned(tmp_path, trained):
    def blind(backbone: ResNet) -> None:
        backbone.conv1.weight.zero_()

    results = gated(tmp_path, edited(trained, blind))
    assert results["verdict"] == "not learned"
    assert "the features of all 150 images are equal" in results["reasons"][0]


def test_dead_channels_are_a_warning(tmp_path, trained):
    def cut(backbone: ResNet) -> None:
        for layer in backbone.layer4:
            for parameter in (layer.bn2.weight, layer.bn2.bias):
                parameter[:128] = 0
        shortcut = backbone.layer4[0].downsample[1]
        shortcut.weight[:128], shortcut.bias[:128] = 0, 0

    results = gated(tmp_path, edited(trained, cut))
    assert results["features"]["constant"] == pytest.approx(0.5, abs=0.05)
    (warning,) = read_record(tmp_path / "run")["warnings"]
    assert "of the feature's channels are dead" in warning


def test_features_that_are_not_finite_have_not_learned(tmp_path, trained):
    def explode(backbone: ResNet) -> None:
        backbone.layer4[1].conv2.weight.mul_(1e30)
        backbone.layer4[1].bn2.weight.mul_(1e30)

    results = gated(tmp_path, edited(trained, explode))
    assert results["verdict"] == "not learned"
    assert "not finite" in results["reasons"][0]
    assert results["comparison"] == "some features are not finite"
    assert read_record(tmp_path / "run")["status"] == "done"


def test_images_with_several_labels_are_scored_by_the_class_with_most_votes(tmp_path, trained):
    data = write_labeled_voc(tmp_path / "voc")
    results = gated(tmp_path, trained, data=str(data))
    assert results["comparison"]["name"] == "12-NN label in image"  # the whole bank
    assert list(read_record(tmp_path / "run")["data"]) == ["trainval"]


def test_without_labels_only_statistics_decide(tmp_path, trained, make_folder):
    folder = make_folder(train=10) / "train"
    results = gated(tmp_path, trained, data=f"flat:{folder}")
    assert results["comparison"] == "the images have no labels"
    assert results["verdict"] == "unclear"
    assert read_record(tmp_path / "run")["scores"] == []


def test_no_test_image_is_needed_or_used(tmp_path, trained, make_folder):
    data = make_folder(train=12, val=4)
    first = gated(tmp_path, trained, data=str(data))
    shutil.rmtree(data / "val")
    shutil.rmtree(tmp_path / "run")
    assert gated(tmp_path, trained, data=str(data)) == first


def test_vision_transformers_are_judged_by_their_layer_norms(tmp_path, toys):
    results = gate.run(config(tmp_path, "random", arch=PLAIN))
    assert results["verdict"] == "not learned"
    assert results["reasons"][0].startswith("all 5 norm layers")
    _, arch, write = FILES["MAE published"]
    path = tmp_path / "vit.pth"
    torch.save(write(timm_model(arch), timm_model(arch, seed=1)), path)
    shutil.rmtree(tmp_path / "run")
    assert gate.run(config(tmp_path, path))["norm_layers"]["untouched"] == 0


def test_the_exit_code_of_a_network_that_has_not_learned_is_1(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        gate.run_as_script(config(tmp_path, "random", arch=ARCH), gate.Card())
    assert end.value.code == 1
    assert capsys.readouterr().out.startswith("not learned: ")


@pytest.mark.parametrize("name", ["bank", "queries", "k", "twins"])
def test_numbers_of_images_are_checked(name):
    with pytest.raises(UserError, match=f"{name} is 0; expected at least"):
        gate.Config(**{name: 0})
