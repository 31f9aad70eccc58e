"""A run on four processes continues on two, and on one, to the weights of an uninterrupted run on one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from msbreg.checkpoints.load import load_checkpoint
from msbreg.run.config import Card
from msbreg.run.record import read_record
from pretrain.run import run
from tests.conftest import write_folder
from tests.pretrain.elastic import STEPS, long
from tests.processes import run_many

STOPS = {4: 3, 2: 5, 1: STEPS}  # number of processes -> step after which they stop


def parameters(content: dict[str, Any]) -> torch.Tensor:
    """Weights and BatchNorm statistics of both networks."""
    return torch.cat(
        [v.flatten().double() for n in ("online", "target") for v in content[n].values()]
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two runs: ``whole`` on one process, and ``elastic``."""
    folder = tmp_path_factory.mktemp("elastic")
    data = write_folder(folder / "data", train=8, val=4)
    run(long(data, folder / "whole"), Card("test", {}))
    for processes, stop in STOPS.items():
        codes = run_many("tests.pretrain.elastic", processes, data, folder / "elastic", stop)
        assert codes == [75 if stop < STEPS else 0] * processes
        shutil.copy(folder / "elastic" / "checkpoint.pth", folder / f"{processes}.pth")
        (folder / f"{processes}.json").write_text(json.dumps(read_record(folder / "elastic")))
    return folder


def test_the_weights_are_those_of_an_uninterrupted_run(folder):
    whole, elastic, first = (
        parameters(load_checkpoint(folder / name))
        for name in ("whole/checkpoint.pth", "elastic/checkpoint.pth", "4.pth")
    )
    # Relative to the change since the first interruption. Rounding errors are amplified by each step.
    assert (elastic - whole).norm() < 1e-3 * (whole - first).norm()


def test_the_curve_has_the_losses_of_an_uninterrupted_run(folder):
    whole, elastic = (
        [json.loads(line) for line in (folder / name / "curve.jsonl").read_text().splitlines()]
        for name in ("whole", "elastic")
    )
    assert [row["step"] for row in elastic] == [row["step"] for row in whole] == [0, 2, 4, 6]
    for row, expected in zip(elastic[1:], whole[1:], strict=True):
        for name in ("total", "centroid", "singular_value"):
            assert row[name] == pytest.approx(expected[name], rel=1e-4)


def test_the_record_is_equivalent_and_says_what_a_change_of_processes_changes(folder):
    records = [json.loads((folder / f"{processes}.json").read_text()) for processes in STOPS]
    assert [record["status"] for record in records] == ["interrupted", "interrupted", "done"]
    assert [record["processes"] for record in records] == list(STOPS)
    assert all(record["equivalent"] is True for record in records)
    order = "sums over processes are added in another order, which can change their last bits"
    assert records[-1]["warnings"] == [
        f"resumed on 2 processes, started on 4: {order}",
        f"resumed on 1 processes, started on 2: {order}",
    ]
