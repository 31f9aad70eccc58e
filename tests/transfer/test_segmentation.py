"""Whole runs of transfer/segmentation.py: results, resuming, two processes, and errors."""

import json
import math
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from msbreg.checkpoints.read import read_file
from msbreg.data.decoding import read_label_map
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.run.errors import UserError
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.msbreg.data.segmentation.map_trees import folders_tree, save_map
from tests.processes import run_many, run_pair
from tests.reference import segmentation as slow
from tests.transfer.segmentation_runs import frozen, tiny
from tests.transfer.two_segmenters import KILLED_AFTER
from tests.transfer.verdicts.recorded import check_outcomes
from transfer.segmentation import run
from transfer.segmenters.segmentation_config import Config, NetworkOptions, SolverOptions


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return folders_tree(tmp_path_factory.mktemp("maps") / "data", train=6, val=3)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    """The folder of a completed run."""
    output = tmp_path_factory.mktemp("runs") / "done"
    run(tiny(data, output))
    return output


def weights(output: Path) -> dict[str, torch.Tensor]:
    return read_file(output / "checkpoint.pth").content["model"]


def same_weights(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_score_is_that_of_the_written_predictions_at_the_size_of_the_label_maps(done, data):
    check_outcomes(done)
    source = open_label_maps(str(data), "val")
    truths = [source.label(i) for i in range(len(source))]
    files = [done / "predictions" / f"val{i}.png" for i in range(len(source))]
    found = [read_label_map(file) for file in files]
    assert [f.shape for f in found] == [t.shape for t in truths]
    expected = slow.class_ious(truths, found, 3)
    record = read_record(done) or {}
    miou, accuracy = record["scores"]
    assert miou["value"] == pytest.approx(np.nanmean(expected))
    assert list(miou["per_class"]) == ["background", "red", "blue"]
    for value, twin in zip(miou["per_class"].values(), expected, strict=True):
        assert math.isnan(twin) if value is None else value == pytest.approx(twin)
    assert (accuracy["name"], accuracy["rules"]) == (
        "pixel accuracy",
        "whole images, totals over the set",
    )
    assert record["results"]["mIoU"] == miou["value"]
    assert record["drawings"] == ["segmentation.webp"]
    assert [
        row["class"] for row in json.loads((done / "per_class.json").read_text())["classes"]
    ] == [
        "background",
        "red",
        "blue",
    ]


def test_a_killed_run_continues_to_the_weights_of_an_uninterrupted_one(done, data, tmp_path):
    output = tmp_path / "run"
    assert run_many("tests.transfer.two_segmenters", 1, "kill", data, output) == [-signal.SIGKILL]
    assert read_file(output / "checkpoint.pth").content["iteration"] == KILLED_AFTER
    results = run(tiny(data, output))
    assert same_weights(output, done)
    assert results == (read_record(done) or {})["results"]


def test_two_processes_train_and_score_as_one(data, tmp_path):
    run(frozen(data, tmp_path / "one"))
    codes = run_pair("tests.transfer.two_segmenters", "pair", data, tmp_path / "two")
    assert codes == [0, 0]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name, value in one.items():
        # Means over two images and of two means: float32 sums in another order.
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-5, msg=name)
    check_outcomes(tmp_path / "two")
    scores = [(read_record(tmp_path / name) or {})["results"]["mIoU"] for name in ("one", "two")]
    assert scores[0] == pytest.approx(
        scores[1], abs=0.5
    )  # a few pixels on the border of two classes


def test_a_learning_rate_is_chosen_on_held_out_training_images(data, tmp_path):
    solver = SolverOptions(learning_rates=(1e-6, 0.05), held_out=2, iterations=2, batch_size=2)
    results = run(tiny(data, tmp_path / "run", solver=solver))
    assert set(results["held_out_mIoU"]) == {"1e-06", "0.05"}
    best = max(results["held_out_mIoU"], key=results["held_out_mIoU"].get)
    assert results["learning_rate"] == float(best)
    record = read_record(tmp_path / "run") or {}
    assert record["selection"].startswith("learning rate on 2 held-out training images")
    assert len(list((tmp_path / "run" / "predictions").iterdir())) == 3


def test_a_trained_network_is_evaluated_without_training(done, data, tmp_path):
    trained = {"checkpoint": str(done / "checkpoint.pth"), "eval_only": True}
    solver = SolverOptions(iterations=99)  # those of the trained network count
    results = run(tiny(data, tmp_path / "again", solver=solver, **trained))
    first, second = (read_record(f) or {} for f in (done, tmp_path / "again"))
    assert results["mIoU"] == first["results"]["mIoU"]
    assert results["iterations"] == 6
    for same in ("network", "data", "digest"):
        assert second[same] == first[same]
    assert [s["value"] for s in second["scores"]] == [s["value"] for s in first["scores"]]
    assert not (tmp_path / "again" / "checkpoint.pth").exists()


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (NetworkOptions(channels=16, dilation=1), r"network.channels 8 \(here 16\), network.conv"),
        (NetworkOptions(channels=8, convolutions=1), r"network.dilation 1 \(here 6\)"),
    ],
)
def test_a_network_of_other_options_is_not_evaluated(done, data, tmp_path, network, message):
    trained = {"checkpoint": str(done / "checkpoint.pth"), "eval_only": True}
    with pytest.raises(UserError, match=message):
        run(tiny(data, tmp_path / "run", network=network, **trained))


def test_a_backbone_or_other_classes_are_not_evaluated(done, data, tmp_path):
    torch.save({"model": {}}, tmp_path / "backbone.pth")
    with pytest.raises(UserError, match="is not the checkpoint of a segmentation run"):
        run(tiny(data, tmp_path / "a", checkpoint=str(tmp_path / "backbone.pth"), eval_only=True))
    other = folders_tree(tmp_path / "data", train=1, val=1)
    (other / "classes.txt").write_text("background\nred\ngreen\n")
    with pytest.raises(UserError, match="Expected the same, in the same order"):
        run(tiny(other, tmp_path / "b", checkpoint=str(done / "checkpoint.pth"), eval_only=True))


def test_all_void_training_images_are_left_out_with_a_warning(tmp_path):
    root = folders_tree(tmp_path / "data", train=3, val=1)
    shape = open_label_maps(str(root), "train").label(0).shape
    save_map(root / "labels/train/train0.png", np.full(shape, 255, np.uint8))
    solver = SolverOptions(learning_rates=(0.05,), iterations=1, batch_size=2)
    run(tiny(root, tmp_path / "run", solver=solver))
    record = read_record(tmp_path / "run") or {}
    assert record["data"]["train"]["images"] == 2
    assert "train: 1 images without a labeled pixel are not trained on" in record["warnings"]


def test_splits_with_common_images_are_an_error(tmp_path):
    root = folders_tree(tmp_path / "data", train=2, val=1)
    for kind in ("images", "labels"):
        (root / kind / "train").rename(root / kind / "both")
        (root / kind / "train").symlink_to(root / kind / "both")
        (root / kind / "val" / "val0.png").unlink()
        (root / kind / "val").rmdir()
        (root / kind / "val").symlink_to(root / kind / "both")
    with pytest.raises(UserError, match="2 images are in both splits"):
        run(tiny(root, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_copies_of_training_images_under_other_names_are_an_error(tmp_path):
    root = folders_tree(tmp_path / "data", train=2, val=1)
    for kind in ("images", "labels"):
        shutil.copy(root / kind / "train/train1.png", root / kind / "val/other.png")
    with pytest.raises(UserError, match=r"copies of training images .*: 1, for example .*other"):
        run(tiny(root, tmp_path / "run"))


def test_masks_that_store_their_class_as_void_are_an_error(tmp_path):
    root = folders_tree(tmp_path / "data", train=2, val=1)
    for path in (root / "labels").rglob("*.png"):
        labels = read_label_map(path)
        save_map(path, np.where(labels > 0, 255, 0).astype(np.uint8))
    with pytest.raises(UserError, match="are background; expected several of the 3 classes"):
        run(tiny(root, tmp_path / "run"))


def test_other_data_do_not_continue_a_run(done, data, tmp_path):
    with pytest.raises(UserError, match="completed run"):
        run(tiny(data, done))
    assert run(tiny(data, done, finished="skip")) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--solver.learning_rates [0.1,0.2]", "several and a number of held-out training images"),
        ("--augmentation.scales [2,1]", "expected two ascending numbers"),
        ("--inference.stride [0,1]", "expected two sides of at least 1"),
        ("--val_split train", "expected two splits"),
        ("--trials 2 --seed 1", "omit --seed"),
        ("--twin_of x.pth", "expected --checkpoint random with --twin-of"),
    ],
)
def test_invalid_options_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        parse(Config, options.split())
