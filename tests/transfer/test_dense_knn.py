"""Whole runs of transfer/dense_knn.py: scores, two processes, and errors."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from msbreg.data.decoding import read_label_map
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.run.errors import UserError
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.msbreg.data.segmentation.map_trees import folders_tree, save_map
from tests.processes import run_pair
from tests.reference import segmentation as slow
from tests.transfer.segmentation_runs import dense
from tests.transfer.verdicts.recorded import check_outcomes
from transfer.dense_knn import Config, run
from transfer.verdicts.outcomes import FILE


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return folders_tree(tmp_path_factory.mktemp("maps") / "data", train=20, val=18)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    """The folder of a completed run."""
    output = tmp_path_factory.mktemp("runs") / "done"
    run(dense(data, output))
    return output


def record_of(output: Path) -> dict[str, Any]:
    return read_record(output) or {}


def test_the_score_is_that_of_the_written_predictions_at_the_size_of_the_label_maps(done, data):
    source = open_label_maps(str(data), "val")
    truths = [source.label(i) for i in range(len(source))]
    found = [
        read_label_map(done / "predictions" / f"{Path(source.name(i)).stem}.png") for i in range(18)
    ]
    assert [f.shape for f in found] == [t.shape for t in truths]
    check_outcomes(done)
    miou, accuracy = record_of(done)["scores"]
    assert miou["value"] == pytest.approx(np.nanmean(slow.class_ious(truths, found, 3)))
    assert (miou["name"], accuracy["name"]) == ("5-NN mIoU", "5-NN pixel accuracy")
    assert miou["rules"] == (
        "5 nearest of up to 400 patches of 2 passes, 32 x 32 images at stride 4, temperature 0.02, "
        "totals over the set"
    )
    assert record_of(done)["drawings"] == ["segmentation.webp"]


def test_colored_rectangles_are_found_by_an_untrained_network(done):
    # Only background would score 29; the colors alone tell the classes apart.
    assert record_of(done)["results"]["mIoU"] > 50


def test_two_processes_fill_the_memory_and_score_as_one(done, data, tmp_path):
    codes = run_pair("tests.transfer.two_segmenters", "dense", data, tmp_path / "two")
    assert codes == [0, 0]
    one, two = record_of(done), record_of(tmp_path / "two")
    assert one["results"] == two["results"]
    assert (tmp_path / "two" / FILE).read_bytes() == (done / FILE).read_bytes()
    for file in (done / "predictions").iterdir():
        assert (tmp_path / "two" / "predictions" / file.name).read_bytes() == file.read_bytes()


def test_more_neighbors_than_patches_are_an_error(data, tmp_path):
    with pytest.raises(UserError, match="k is 500, but the memory has 400 labeled patches"):
        run(dense(data, tmp_path / "run", k=500))


def test_training_images_without_a_label_are_an_error(data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(data, root)
    for file in (root / "labels" / "train").iterdir():
        save_map(file, np.full_like(read_label_map(file), 255))
    with pytest.raises(UserError, match="all pixels of the 20 label maps"):
        run(dense(root, tmp_path / "run"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--k 0", "k is 0; expected at least 1 neighbor"),
        ("--temperature 0", "expected a number above 0"),
        ("--memory.patches 0", "memory.patches is 0; expected at least 1, or null"),
        ("--memory.area [0.5,2]", "expected 0 < smallest <= largest <= 1"),
        ("--val_split train", "expected two splits"),
    ],
)
def test_invalid_options_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        parse(Config, options.split())
