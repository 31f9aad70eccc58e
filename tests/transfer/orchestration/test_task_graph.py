"""Every task of a plan has complete settings: of its card, its data and its network."""

from pathlib import Path

import pytest
import torch

from msbreg.run.errors import UserError
from tests.msbreg.backbones.toy_transformers import (
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.msbreg.checkpoints.layouts.vit_files import FILES
from tests.msbreg.data.classification.published_trees import imagenet_tree
from tests.transfer.orchestration.tiny_suites import save_untrained, tiny_config
from transfer.orchestration.smoke import SETTINGS
from transfer.orchestration.task_graph import changed, plan_suite
from transfer.segmenters.segmentation_config import Config as Segmentation


def plan(config, more=None):
    return plan_suite(config, config.all_checkpoints, more)


def test_a_task_has_the_settings_of_its_card_and_says_what_was_changed(tmp_path):
    imagenet_tree(tmp_path / "imagenet")
    config = tiny_config(tmp_path, tmp_path, only=("linear",), random_seeds=1)
    ours, twin = plan(config).tasks
    assert ours.card.name == "imagenet_linear"
    assert (ours.config.epochs, ours.config.route) == (80, "streamed")
    assert ours.config.data == f"imagenet:{tmp_path / 'imagenet'}"
    assert ours.config.seed == 7  # of pre-training
    assert ours.card.overrides["checkpoint"] == str(tmp_path / "checkpoint.pth")
    assert "epochs" not in ours.card.overrides
    assert (twin.config.checkpoint, twin.config.seed) == ("random", 0)
    assert twin.config.twin_of == tmp_path / "checkpoint.pth"
    assert [task.key for task in (ours, twin)] == ["pretrained/linear", "random-0/linear"]
    assert twin.folder == tmp_path / "runs" / "random-0" / "linear"


def test_workers_are_passed_to_protocols_and_detectors_if_given(tmp_path):
    def workers(**given):
        config = tiny_config(tmp_path, None, only=("knn", "voc_c4"), **given)
        return {task.name: task.config.workers for task in plan(config).tasks}

    assert workers(workers=None) == {"knn": 2, "voc_c4": -1}
    assert workers(workers=3) == {"knn": 3, "voc_c4": 3}


@pytest.mark.usefixtures("toys")
def test_a_vision_transformer_is_listed_as_not_applicable_where_only_resnets_are(tmp_path):
    _, arch, build = FILES["timm"]
    file = tmp_path / "vit.pth"
    torch.save(build(timm_model(arch, seed=0), timm_model(arch, seed=1)), file)
    found = plan(tiny_config(tmp_path, None, checkpoint=file, only=(), random_seeds=1))
    names = {task.name for task in found.tasks}
    assert names == {"knn", "linear", "svm", "logistic", "dense_knn", "semisupervised"} | {
        "robustness"
    }
    (dense,) = [task for task in found.tasks if task.key == "pretrained/dense_knn"]
    assert dense.config.output_stride is None  # only ResNets can be dilated
    assert {one.name: one.reason for one in found.not_applicable} == dict.fromkeys(
        ["depth", "segmentation", "voc_c4", "coco_mask_fpn"], f"{arch} is not a ResNet"
    )


def test_the_yaml_of_a_detector_is_changed_to_the_backbone(tmp_path):
    save_untrained(tmp_path / "wide.pth", arch="resnet18", size=32)
    config = tiny_config(tmp_path, None, checkpoint=tmp_path / "wide.pth", only=("voc_c4",))
    (task,) = plan(config).tasks
    pairs = dict(zip(task.config.overrides[::2], task.config.overrides[1::2], strict=True))
    assert pairs == {
        "MODEL.RESNETS.STEM_OUT_CHANNELS": "64",
        "MODEL.RESNETS.RES2_OUT_CHANNELS": "64",
    }
    assert pairs.items() <= task.card.overrides.items()


def test_fine_tuned_twins_are_fewer_than_the_others(tmp_path):
    config = tiny_config(
        tmp_path, None, only=("knn", "voc_c4"), random_seeds=3, random_fine_tuned=1
    )
    assert [task.key for task in plan(config).tasks] == [
        *("pretrained/knn", "pretrained/voc_c4", "random-0/knn", "random-0/voc_c4"),
        *("random-1/knn", "random-2/knn"),
    ]


def test_checkpoints_of_other_architectures_have_other_twins(tmp_path):
    files = (
        save_untrained(tmp_path / "a" / "checkpoint.pth"),
        save_untrained(tmp_path / "b.pth", arch="resnet18-tiny", size=32),
    )
    config = tiny_config(tmp_path, None, checkpoints=files, random_seeds=1)
    assert [task.network for task in plan(config).tasks] == [
        *("a", "b", "random-resnet18-narrow-16-0", "random-resnet18-tiny-32-0")
    ]
    again = tuple(Path(str(file)) for file in (files[0], tmp_path / "copy.pth"))
    again[1].write_bytes(files[0].read_bytes())
    with pytest.raises(UserError, match="have the same content"):
        plan(tiny_config(tmp_path, None, checkpoints=again))


def test_every_protocol_on_the_digits_has_tiny_settings_for_the_smoke_test(tmp_path):
    config = tiny_config(tmp_path, None, only=(), skip=())
    tasks = plan(config, SETTINGS).tasks
    assert {task.name for task in tasks} == set(SETTINGS)
    (linear,) = [task for task in tasks if task.name == "linear"]
    assert linear.config.epochs == SETTINGS["linear"]["epochs"] == linear.card.overrides["epochs"]


def test_settings_that_do_not_exist_are_rejected():
    with pytest.raises(UserError, match="unexpected keyword argument 'nothing'"):
        changed(Segmentation(), {"nothing": 1})
