"""The settings behind the published columns are those of the cards; names and rules, those of runs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from msbreg.run.config import flat, plain
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.transfer.finetuning.fine_tuning_processes import settings as fine_tuning
from tests.transfer.scoring.drawn import predict, voc_scenes
from transfer import knn, linear, segmentation, semisupervised, svm
from transfer.detectors import detection_config
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.results import score
from transfer.published.published_tasks import TASKS
from transfer.published.task_matching import protocol_differences, settings_of, task_of
from transfer.scoring.scores import DataId, Score, score_from_dict
from transfer.segmenters.segmentation_config import InferenceOptions
from transfer.segmenters.segmentation_results import rules

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = {
    "knn": knn,
    "linear": linear,
    "semisupervised": semisupervised,
    "svm": svm,
    "segmentation": segmentation,
}


def settings_of_card(name):
    path = ROOT / "configs" / f"{name}.yaml"
    if "transfer/detection.py" in path.read_text():
        config = detection_config.Config(config=path).resolved(read_config(path, ()), "torchvision")
        return settings_of({"config": plain(config)})
    script = next(s for n, s in SCRIPTS.items() if f"python transfer/{n}.py" in path.read_text())
    return flat(plain(parse(script.Config, ["--config", str(path)])[0]))


@pytest.mark.parametrize("task", [name for name, of in TASKS.items() if of.card])
def test_the_settings_behind_a_column_are_those_of_its_card(task):
    of = TASKS[task]
    expected = {**of.defining, **of.settings}
    expected.pop("representation", None)  # null in the cards: gap for every ResNet
    found = settings_of_card(of.card)
    assert {name: found[name] for name in expected} == expected


def test_the_settings_of_w_mse_on_stl10_differ_from_its_card_in_the_transform_only():
    for task in ("STL-10 linear", "STL-10 kNN"):
        others = TASKS[task.replace("STL-10", "ImageNet-100")].settings
        changed = {
            name for name, value in TASKS[task].settings.items() if others.get(name) != value
        }
        assert changed == {"transform.resize", "transform.crop", "transform.interpolation"}


# ---- Names and rules of complete runs on two classes, as if the images were those of the task


def as_published(record, task):
    """The scores of a run as if it had scored the images of the task."""
    data = TASKS[task].data
    return [
        replace(
            one,
            data=DataId(data.name, data.split, one.data.fingerprint),
            n=data.images,
            per_class=None,
        )
        for one in map(score_from_dict, record["scores"])
    ]


def common(data, output, **changes):
    return {
        "checkpoint": "random",
        "arch": "resnet18-tiny",
        "data": str(data),
        "output": output,
        "cache": output / "cache",
        "workers": 1,
        **changes,
    }


@pytest.fixture
def data(make_folder):
    return make_folder(train=12, val=3)


def test_scores_of_knn_answer_the_columns_of_imagenet(data, tmp_path):
    knn.run(knn.Config(**common(data, tmp_path / "run", k=(20,))))
    record = read_record(tmp_path / "run")
    (one,) = as_published(record, "ImageNet kNN")
    settings = settings_of(record)
    assert task_of(one, settings) == ("ImageNet kNN", "20-NN top1")
    told = protocol_differences(one, settings)
    assert "scored by" not in told  # the rules are the published ones
    assert "transform.resize 32 (published: 256)" in told


def test_scores_of_euclidean_knn_answer_the_columns_of_w_mse(data, tmp_path):
    changes = {"k": (5,), "metric": "euclidean", "vote": "majority"}
    knn.run(knn.Config(**common(data, tmp_path / "run", **changes)))
    record = read_record(tmp_path / "run")
    for task in ("ImageNet-100 kNN", "STL-10 kNN"):
        (one,) = as_published(record, task)
        assert task_of(one, settings_of(record)) == (task, "5-NN top1")
        assert "scored by" not in protocol_differences(one, settings_of(record))


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("ImageNet linear", {"route": "streamed", "learning_rates": (0.1, 0.2)}),
        ("Places205 linear", {"route": "streamed", "learning_rates": (0.2,)}),
        ("STL-10 linear", {"route": "cached", "learning_rates": (0.01,)}),
    ],
)
def test_scores_of_linear_classification_answer_their_columns(data, tmp_path, task, changes):
    changes = {"epochs": 1, "batch_size": 8, "held_out": 0.25, "loading": 0, **changes}
    linear.run(linear.Config(**common(data, tmp_path / "run", **changes)))
    record = read_record(tmp_path / "run")
    (one,) = as_published(record, task)
    settings = settings_of(record)
    assert task_of(one, settings) == (task, "top1")
    told = protocol_differences(one, settings)
    assert "scored by" not in told
    assert f"epochs 1 (published: {TASKS[task].settings['epochs']})" in told
    assert "nknown" not in told


@pytest.mark.parametrize(
    ("task", "split", "freeze"),
    [
        ("ImageNet semi-supervised 1%", "train-1pct", "encoder"),
        ("ImageNet semi-supervised 10%", "train-10pct", "nothing"),
    ],
)
def test_scores_of_few_labels_answer_their_columns(make_folder, tmp_path, task, split, freeze):
    data = make_folder(**{split: 6, "val": 3})
    changes = {"train_split": split, "freeze": freeze, "epoch_counts": (1,)}
    changes |= {"learning_rates": (0.1,), "encoder_rates": () if freeze == "encoder" else (0.1,)}
    semisupervised.run(fine_tuning(data, tmp_path / "run", **changes))
    record = read_record(tmp_path / "run")
    top1, mean = as_published(record, task)
    settings = settings_of(record)
    assert task_of(top1, settings) == (task, "top1")
    assert task_of(mean, settings) is None
    told = protocol_differences(top1, settings)
    assert "scored by" not in told
    assert "nknown" not in told


def test_the_rules_of_svms_are_those_of_the_column():
    assert svm._rules(svm.Config()) == TASKS["VOC07 linear SVM"].rules


def test_the_rules_of_segmentation_are_those_of_the_column():
    options = InferenceOptions(mode="center")
    assert rules(options) == TASKS["VOC2012 semantic segmentation FCN"].rules


def test_scores_of_detection_on_voc_answer_their_columns():
    rng = np.random.default_rng(0)
    scenes = voc_scenes(rng)
    found = score(scenes, predict(rng, scenes))["box"]
    for metric in ("AP", "AP50", "AP75"):
        one = Score(
            f"box {metric}", found.numbers[metric], DataId(scenes.name, ""), found.metric, n=4952
        )
        assert task_of(one) == ("VOC07+12 detection Faster R-CNN C4", metric)
