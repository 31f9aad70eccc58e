"""Two processes train one detector, and continue after they were killed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from msbreg.run.record import read_record
from tests.processes import run_pair
from tests.transfer.boxes_data import make_voc, tiny_card
from tests.transfer.two_processes import KILLED_AFTER, still
from transfer.detectors.detector_training import read_checkpoint

ROOT = Path(__file__).resolve().parents[2]


def two_processes(task: str, card: Path, folder: Path) -> list[int]:
    """How they ended."""
    return run_pair("tests.transfer.two_processes", task, card, folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An uninterrupted run of two processes, ``whole``, and one that was killed, ``broken``."""
    folder = tmp_path_factory.mktemp("two")
    data = make_voc(folder / "boxes")
    card = tiny_card(folder, data, IMS_PER_BATCH=4, CHECKPOINT_PERIOD=3)
    assert two_processes("begin", card, folder) == [-signal.SIGKILL, -signal.SIGKILL]
    return folder


@pytest.fixture(scope="module")
def toys(folder) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def saved(folder) -> dict[str, Any]:
    """The checkpoint of the killed run."""
    return read_checkpoint(folder / "broken" / "checkpoint.pth")


@pytest.fixture(scope="module")
def continued(folder, saved) -> Path:
    """The killed run's folder, after the same command."""
    assert two_processes("continue", folder / "tiny.yaml", folder) == [0, 0]
    return folder / "broken"


def test_two_processes_train_the_same_weights_and_curve_as_one_with_the_joined_batch(
    toys, tmp_path
):
    one = still(tmp_path, accumulate=1)
    for two in (toy["still"] for toy in toys):
        for name, value in one["weights"].items():
            # The mean over four images, and that of four means: float32 sums in another order.
            assert torch.allclose(two["weights"][name], value, rtol=1e-5, atol=1e-6), name
        assert len(two["rows"]) == 1
        assert two["rows"][0] == pytest.approx(one["rows"][0], rel=1e-5)
    first, second = (toy["still"]["weights"] for toy in toys)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_both_processes_evaluate_with_the_statistics_of_the_first(toys):
    first, second = (toy["norm"]["evaluated"] for toy in toys)
    assert len(first) == len(second) == 1
    assert not torch.equal(first[0]["norm.running_var"], torch.ones(4))
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])


def test_processes_have_different_random_numbers_and_losses(saved):
    seeds = []
    for states in saved["loop"]["generators"]:
        generator = torch.Generator()
        generator.set_state(states["torch"])
        seeds.append(generator.initial_seed())
    assert seeds == [0, 1]
    assert saved["loop"]["generators"][0]["python"] != saved["loop"]["generators"][1]["python"]
    assert saved["loop"]["sums"][0].keys() == saved["loop"]["sums"][1].keys()
    assert saved["loop"]["sums"][0] != saved["loop"]["sums"][1]
    assert saved["about"]["device"] == "cpu"


def test_two_killed_processes_continue_to_the_weights_and_curve_of_an_uninterrupted_run(
    folder, saved, continued
):
    assert (saved["iteration"], saved["loop"]["counted"]) == (KILLED_AFTER, KILLED_AFTER)
    whole, again = (
        read_checkpoint(path / "checkpoint.pth") for path in (folder / "whole", continued)
    )
    assert not [
        name
        for name, value in whole["model"].items()
        if not torch.equal(value, again["model"][name])
    ]
    rows = [
        [json.loads(line) for line in (path / "curve.jsonl").read_text().splitlines()]
        for path in (folder / "whole", continued)
    ]
    assert [row["iteration"] for row in rows[0]] == [4, 8, 8]
    assert rows[0] == rows[1]
    records = [read_record(path) or {} for path in (folder / "whole", continued)]
    assert records[0]["results"] == records[1]["results"]
    assert records[0]["processes"] == records[1]["processes"] == 2
