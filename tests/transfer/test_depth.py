"""The linear depth probe: metrics, whole runs, and errors."""

import dataclasses
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from msbreg.checkpoints.read import read_file
from msbreg.run.errors import UserError
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.msbreg.data.segmentation.depth_trees import depth_folder
from tests.processes import run_many
from tests.reference import depth as slow
from tests.transfer.depth_runs import short, tiny
from tests.transfer.verdicts.recorded import check_outcomes
from transfer.depth import Config, numbers, run
from transfer.segmenters.linear_depth import DepthScores, depth_totals, training_sample
from transfer.segmenters.segmentation_config import DepthOptions


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return depth_folder(tmp_path_factory.mktemp("depth") / "data")


@pytest.fixture(scope="module")
def done(data, tmp_path_factory) -> Path:
    """The folder of a completed run."""
    output = tmp_path_factory.mktemp("runs") / "done"
    run(tiny(data, output))
    return output


def test_metrics_are_those_of_a_loop_over_pixels():
    random = np.random.default_rng(0)
    truths = [random.uniform(0.5, 5, shape) for shape in ((5, 7), (4, 4))]
    found = [truth * random.lognormal(0, 0.4, truth.shape) for truth in truths]
    truths[0][2, 3] = 0
    totals = sum(depth_totals(t, f) for t, f in zip(truths, found, strict=True))
    assert numbers(DepthScores(totals[None])) == pytest.approx(slow.metrics(truths, found))


def test_brightness_tells_the_depth(done):
    results = (read_record(done) or {})["results"]
    assert results["within_1.25"] > 60  # a constant prediction has 50 at best
    assert results["rms"] < 0.9  # a constant prediction has 0.93 at best


def test_tables_have_rms_in_centimeters_and_rel_in_percent(done):
    record = read_record(done) or {}
    check_outcomes(done)
    first, *_, rms, rel = record["scores"]
    assert (first["name"], first["value"]) == (
        "depth ratio < 1.25",
        record["results"]["within_1.25"],
    )
    assert (rms["name"], rms["unit"], rms["higher_is_better"]) == ("depth rms", "cm", False)
    assert rms["value"] == pytest.approx(100 * record["results"]["rms"])
    assert (rel["name"], rel["unit"], rel["higher_is_better"]) == ("depth rel", "%", False)
    assert rel["value"] == pytest.approx(100 * record["results"]["rel"])


def test_a_killed_run_continues_to_the_weights_of_an_uninterrupted_one(data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_many("tests.transfer.depth_runs", 1, data, killed) == [-signal.SIGKILL]
    assert read_file(killed / "checkpoint.pth").content["iteration"] == 2
    assert run(short(data, killed)) == run(short(data, whole))
    heads = [read_file(folder / "checkpoint.pth").content["model"] for folder in (whole, killed)]
    assert heads[0].keys() == heads[1].keys()
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])


def test_a_flip_mirrors_image_and_depth():
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    depth = image[..., 0].astype(np.float32)
    options = DepthOptions(size=(6, 8), crop=(4, 6), flip=1.0)
    pixels, found = training_sample(image, depth, options, np.random.RandomState(0))
    assert np.array_equal(pixels, image[1:5, 1:7][:, ::-1])
    assert np.array_equal(found, pixels[..., 0])


def test_a_window_outside_of_the_image_is_an_error(data, tmp_path):
    config = tiny(data, tmp_path / "run")
    depth = dataclasses.replace(config.depth, iterations=1, scored=(0, 40, 0, 32))
    with pytest.raises(UserError, match="an image has 24 rows and 32 columns"):
        run(dataclasses.replace(config, depth=depth))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--depth.crop [300,300]", "depth.crop is .*; expected two sides of at most"),
        ("--depth.scored [5,5,0,9]", "first row < end row"),
        ("--val_split train", "expected two splits"),
    ],
)
def test_invalid_options_are_explained(options, message):
    with pytest.raises(UserError, match=message):
        parse(Config, ["--data", ".", *options.split()])
