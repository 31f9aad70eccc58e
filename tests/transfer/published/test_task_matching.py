"""Scores answer the right published columns, and unlike protocols are told."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.transfer.published.made_up import COLUMNS, score_for, settings_for
from transfer.published.published_numbers import published_scores
from transfer.published.published_tasks import TASKS
from transfer.published.task_matching import baselines_of, protocol_differences, task_of
from transfer.scoring.scores import DataId

C4, COCO = "VOC07+12 detection Faster R-CNN C4", "COCO Mask R-CNN FPN 90k"
KNN = ("ImageNet kNN", "20-NN top1")
DIGITS = score_for(*KNN, data=DataId("digits", "val"), n=720)


@pytest.mark.parametrize(("task", "metric"), COLUMNS)
def test_a_score_of_the_protocol_answers_its_column_without_any_difference(task, metric):
    score, settings = score_for(task, metric), settings_for(task)
    assert task_of(score, settings) == (task, metric)
    assert protocol_differences(score, settings) == ""


@pytest.mark.parametrize("one", published_scores()[::7], ids=lambda one: f"{one.task}-{one.method}")
def test_a_published_score_answers_its_own_column(one):
    settings = {**TASKS[one.task].defining}
    assert task_of(one.score, settings) == (one.task, one.metric)


def test_scores_of_other_data_splits_and_names_answer_no_column():
    score = score_for(*KNN)
    assert task_of(DIGITS) is None
    assert task_of(replace(score, data=DataId("imagenet", "train"))) is None
    assert task_of(replace(score, name="10-NN top-1")) is None
    assert task_of(score_for("ImageNet linear", "top1", name="attentive top-1")) is None
    assert task_of(score_for("VOC07 linear SVM", "mAP", name="16-shot SVM mAP")) is None


def test_5_nn_by_cosine_does_not_answer_the_majority_vote_of_w_mse():
    rules = "cosine similarity s, 5 neighbors, weights exp(s / 0.07)"
    assert task_of(score_for("STL-10 kNN", "5-NN top1", rules=rules)) is None


def test_the_linear_depth_probe_does_not_answer_byols_fine_tuned_network():
    rules = "linear layer on c5 at stride 16, whole images, totals over the set"
    assert task_of(score_for("NYUv2 depth", "rms", rules=rules)) is None


def test_area_ap_does_not_answer_11_point_ap():
    assert task_of(score_for(C4, "AP50", rules="VOC area AP")) is None


# ---- Which data


@pytest.mark.parametrize("name", ["imagenet", "ILSVRC2012", "ImageNet-1k", "ILSVRC"])
def test_imagenet_is_recognized_by_the_usual_names_of_its_folder(name):
    assert task_of(score_for(*KNN, data=DataId(name, "val"))) == KNN


def test_the_layout_decides_which_data_a_folder_contains():
    score = score_for(*KNN, data=DataId("my-photos", "val"), n=49_000)
    assert task_of(score) is None
    assert task_of(score, {"data": "imagenet:/data/my-photos"}) == KNN
    assert task_of(score_for(*KNN), {"data": "stl10:/data/imagenet"}) is None
    assert task_of(score, {"data": "folder:/data/my-photos"}) is None


def test_imagenet_100_in_a_folder_called_imagenet_is_recognized_by_its_images_and_layout():
    wanted = ("ImageNet-100 linear", "top1")
    score = score_for(*wanted, data=DataId("imagenet", "val"))
    assert task_of(score) == wanted
    settings = settings_for(wanted[0], data="imagenet100:/data/imagenet")
    assert task_of(score, settings) == wanted
    assert protocol_differences(score, settings) == ""


def test_a_subset_of_the_classes_is_another_task():
    classes = {f"class {i}": 50.0 for i in range(1000)}
    assert task_of(score_for(*KNN, per_class=classes)) == KNN
    assert task_of(score_for(*KNN, per_class=dict(list(classes.items())[:10]))) is None


def test_data_in_a_folder_of_any_name_are_recognized_by_their_number_of_images_and_this_is_told():
    wanted = ("VOC07 linear SVM", "mAP")
    score = score_for(*wanted, data=DataId("VOCdevkit", "test"))
    assert task_of(score) == wanted
    assert protocol_differences(score, settings_for(wanted[0])).endswith(
        ': the data "VOCdevkit" were taken for VOC2007 by the number of images'
    )
    assert task_of(replace(score, n=100)) is None
    other = replace(score, per_class={"cat": 50.0, "dog": 60.0})
    assert task_of(other) is None


def test_a_round_number_of_images_alone_identifies_no_data():
    for task in ("STL-10 kNN", "ImageNet-100 kNN"):
        split = TASKS[task].data.split
        assert task_of(score_for(task, "5-NN top1", data=DataId("photos", split))) is None


# ---- Settings that make another task


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("yaml__SOLVER__MAX_ITER", 180_000),
        ("yaml__MODEL__BACKBONE__NAME", "build_resnet_backbone"),
        ("yaml__MODEL__MASK_ON", False),
        ("yaml__DATASETS__TRAIN", ["coco_2017_train_10"]),
    ],
)
def test_another_schedule_or_detector_on_coco_answers_no_column(setting, value):
    settings = settings_for(COCO, **{setting: value})
    assert task_of(score_for(COCO, "AP_bb"), settings) is None


def test_training_on_voc07_alone_answers_byols_column_and_only_in_ap50():
    settings = settings_for(C4, yaml__DATASETS__TRAIN=["voc_2007_trainval"])
    assert task_of(score_for(C4, "AP50"), settings) == ("VOC07 detection Faster R-CNN C4", "AP50")
    assert task_of(score_for(C4, "AP"), settings) is None


def test_a_linear_layer_does_not_answer_the_fcn_on_voc_2012():
    task = "VOC2012 semantic segmentation FCN"
    assert task_of(score_for(task, "mIoU"), settings_for(task, network__head="linear")) is None


# ---- Settings that are told


@pytest.mark.parametrize(
    ("task", "metric", "setting", "value", "told"),
    [
        (*KNN, "transform__resize", 232, "transform.resize 232 (published: 256)"),
        ("VOC07 linear SVM", "mAP", "transform__squash", True, "transform.squash True (published: False)"),
        ("VOC07 linear SVM", "mAP", "c_grid", "obow", "c_grid obow (published: vissl)"),
        ("Places205 linear", "top1", "norms", ["affine"], "norms [affine] (published: [none])"),
        ("ImageNet linear", "top1", "epochs", 100, "epochs 100 (published: 80)"),
        (C4, "AP50", "yaml__SOLVER__BASE_LR", 0.1, "SOLVER.BASE_LR 0.1 (published: 0.02)"),
        (COCO, "AP_mk", "yaml__SOLVER__WARMUP_ITERS", 1000, "SOLVER.WARMUP_ITERS 1000 (published: 50)"),
    ],
)  # fmt: skip
def test_other_settings_are_named_with_both_values(task, metric, setting, value, told):
    score, settings = score_for(task, metric), settings_for(task, **{setting: value})
    assert task_of(score, settings) == (task, metric)
    assert protocol_differences(score, settings) == f"Unlike {TASKS[task].protocol}: {told}"


def test_other_rules_are_told():
    rules = "cosine similarity s, 20 neighbors, weights equal"
    text = protocol_differences(score_for(*KNN, rules=rules), settings_for(KNN[0], vote="majority"))
    assert f'scored by "{rules}"' in text
    assert "vote majority (published: weighted)" in text


def test_a_random_part_of_the_labels_is_not_the_published_list():
    task = "ImageNet semi-supervised 10%"
    rules = "fine-tuned network, trained on train, 10 % of the labels"
    score = score_for(task, "top1", rules=rules)
    settings = settings_for(task, train_split="train")
    assert task_of(score, settings) == (task, "top1")
    assert "train_split train (published: train-10pct)" in protocol_differences(score, settings)


def test_another_number_of_images_is_told():
    text = protocol_differences(score_for(*KNN, n=49_999), settings_for(KNN[0]))
    assert text.endswith("49,999 images scored (published: 50,000)")


def test_unknown_settings_are_told():
    score = score_for(*KNN)
    protocol = TASKS[KNN[0]].protocol
    assert protocol_differences(score) == (
        f"Not compared with {protocol}: the settings of this run are unknown"
    )
    assert protocol_differences(replace(score, n=9)).endswith(
        ": 9 images scored (published: 50,000). The settings of this run are unknown"
    )
    settings = settings_for(KNN[0])
    del settings["temperature"]
    assert protocol_differences(score, settings) == (
        f"As {protocol}, as far as known; unknown settings: temperature"
    )
    settings["transform.crop"] = 160
    assert protocol_differences(score, settings) == (
        f"Unlike {protocol}: transform.crop 160 (published: 224). Unknown settings: temperature"
    )


def test_lists_tuples_and_rounded_numbers_are_equal():
    settings = settings_for("Places205 linear", norms=("none",), learning_rates=(0.2 + 1e-12,))
    assert protocol_differences(score_for("Places205 linear", "top1"), settings) == ""


def test_asking_for_the_differences_of_a_score_without_column_is_an_error():
    with pytest.raises(KeyError, match="20-NN top-1 on digits answers no published column"):
        protocol_differences(DIGITS)


# ---- Baselines


def test_baselines_are_the_published_scores_of_the_column_each_once():
    found = baselines_of(score_for(*KNN))
    assert {one.method: one.value for one in found} == {
        "PCL": 54.5,
        "VICReg": 64.5,
        "SwAV": 65.7,
        "MSBReg": 66.2,
    }
    linear = baselines_of(score_for("ImageNet linear", "top1"))
    assert {(one.task, one.metric) for one in linear} == {("ImageNet linear", "top1")}
    keys = [(one.method, one.epochs, one.value) for one in linear]
    assert len(set(keys)) == len(keys)
    assert min(one.value for one in linear) > 39  # no collapsed variants of ablations
    assert (
        min(one.value for one in baselines_of(score_for("ImageNet linear", "top1"), ablations=True))
        < 1
    )


def test_baselines_of_a_poster_do_not_repeat_those_of_the_paper():
    found = baselines_of(score_for("ImageNet-100 kNN", "5-NN top1"))
    assert [one.printed for one in found] == ["63.18", "71.32", "74.30", "75.24"]


def test_a_score_without_column_has_no_baselines():
    assert baselines_of(DIGITS) == ()


def test_published_numbers_are_read_without_pytorch():
    code = "import transfer.published, sys; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
