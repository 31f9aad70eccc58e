"""A comparison is computed once for the same outcomes, and again for others."""

import itertools
import json

import numpy as np
import pytest

from tests.transfer.report.records import network, write_hits
from transfer.report import verdict_memory
from transfer.report.collection import collect
from transfer.report.exports.score_rows import score_rows
from transfer.report.verdict_memory import Memory, Missing
from transfer.verdicts.comparison import Comparison


def write_pair(folder, share=0.6):
    write_hits(folder / "a", network(), np.arange(100) < 100 * share)
    write_hits(folder / "b", network(random=True), np.arange(100) < 20)


def compared(folder, path, *, compute=True):
    ours, theirs = score_rows(collect([folder]).networks)
    memory = Memory(path)
    found = memory.compare(ours, theirs, compute=compute)
    memory.save()
    return found


def test_a_comparison_is_read_back_from_the_file_without_computing_it(tmp_path):
    write_pair(tmp_path / "runs")
    first = compared(tmp_path / "runs", tmp_path / "verdicts.json")
    assert isinstance(first, Comparison)
    assert compared(tmp_path / "runs", tmp_path / "verdicts.json", compute=False) == first


def test_runs_that_were_moved_are_recognized(tmp_path):
    write_pair(tmp_path / "runs")
    first = compared(tmp_path / "runs", tmp_path / "verdicts.json")
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert compared(tmp_path / "moved", tmp_path / "verdicts.json", compute=False) == first


def test_other_outcomes_are_compared_again(tmp_path):
    write_pair(tmp_path / "runs")
    compared(tmp_path / "runs", tmp_path / "verdicts.json")
    write_pair(tmp_path / "new", share=0.5)
    path = tmp_path / "verdicts.json"
    assert compared(tmp_path / "new", path, compute=False) is Missing.TIME
    again = compared(tmp_path / "new", path)
    assert isinstance(again, Comparison)
    assert again.difference == pytest.approx(30.0)


def test_why_outcomes_do_not_go_together_is_remembered(tmp_path):
    write_hits(tmp_path / "a", network(), np.arange(100) < 60)
    write_hits(tmp_path / "b", network(random=True), np.arange(100) < 20, units="others")
    first = compared(tmp_path, tmp_path / "verdicts.json")
    assert isinstance(first, str)
    assert compared(tmp_path, tmp_path / "verdicts.json", compute=False) == first


def test_runs_on_one_network_that_differ_are_compared_as_seeds(tmp_path):
    for trial, share in enumerate((0.6, 0.7, 0.7)):
        write_hits(tmp_path / f"trial-{trial}", network(), np.arange(100) < 100 * share)
    write_hits(tmp_path / "b", network(random=True), np.arange(100) < 20)
    found = compared(tmp_path, None)
    assert found.seeds == (2, 1)  # the third run is a repetition of the second one
    assert found.difference == pytest.approx(45.0)


def test_networks_with_equal_outcomes_remain_several_seeds(tmp_path):
    write_hits(tmp_path / "a", network(), np.arange(100) < 60)
    for seed in range(3):
        write_hits(tmp_path / f"b{seed}", network(seed, random=True), np.arange(100) < 10)
    assert compared(tmp_path, None).seeds == (1, 3)


def test_a_run_in_several_comparisons_is_compared_as_if_it_were_in_one(tmp_path):
    for k in range(3):
        write_hits(
            tmp_path / f"{k}", network(name=f"n{k}", sha256=f"n{k}"), np.arange(100) < 20 * k
        )
    rows = score_rows(collect([tmp_path]).networks)
    shared = Memory()
    for ours, theirs in itertools.combinations(rows, 2):
        assert shared.compare(ours, theirs) == Memory().compare(ours, theirs)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"not JSON",
        lambda content: b"[]",
        lambda content: json.dumps(content | {"version": verdict_memory.VERSION + 1}).encode(),
        lambda content: json.dumps(
            content | {"comparisons": {key: {"stderr": 0} for key in content["comparisons"]}}
        ).encode(),
        lambda content: json.dumps(
            content
            | {"comparisons": {k: v | {"stderr": 0} for k, v in content["comparisons"].items()}}
        ).encode(),
        lambda content: json.dumps(
            content
            | {"comparisons": {k: v | {"seeds": [1]} for k, v in content["comparisons"].items()}}
        ).encode(),
    ],
)
def test_a_file_that_is_damaged_or_of_another_version_is_an_empty_memory(tmp_path, change):
    write_pair(tmp_path / "runs")
    path = tmp_path / "verdicts.json"
    compared(tmp_path / "runs", path)
    path.write_bytes(change(json.loads(path.read_text())))
    assert compared(tmp_path / "runs", path, compute=False) is Missing.TIME


def test_comparisons_that_are_no_longer_used_leave_the_file(tmp_path):
    path = tmp_path / "verdicts.json"
    for name, share in (("one", 0.6), ("two", 0.5)):
        write_pair(tmp_path / name, share)
        compared(tmp_path / name, path)
    assert len(json.loads(path.read_text())["comparisons"]) == 1


def test_without_outcomes_no_file_is_written(tmp_path):
    write_pair(tmp_path / "runs")
    (tmp_path / "runs" / "a" / "outcomes.npz").unlink()
    assert compared(tmp_path / "runs", tmp_path / "verdicts.json") is Missing.OUTCOMES
    assert not (tmp_path / "verdicts.json").exists()
