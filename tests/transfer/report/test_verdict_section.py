"""Networks are compared only by equal protocols, and what is not compared is counted."""

import re

import numpy as np
import pytest

from tests.transfer.report.records import network, score, write_hits, write_scores
from transfer.report.collection import collect
from transfer.report.render import write_report
from transfer.report.score_tables import score_tables
from transfer.report.verdict_memory import Memory
from transfer.report.verdict_section import Limits, verdict_section


def hits(share, n=200):
    """The first images are classified correctly, so that networks differ on the same ones."""
    return np.arange(n) < round(share * n)


def other(seed=0, name="other"):
    return network(seed, name=name, sha256=f"{name}-{seed}", details={"method": name})


def section_of(folder, **limits):
    return verdict_section(collect([folder]).networks, Memory(), Limits(**limits))


def rows_of(folder):
    return [row for table in section_of(folder).tables for row in table.rows]


def test_a_trained_network_is_better_than_its_untrained_twin(tmp_path):
    for seed in range(2):
        write_hits(tmp_path / f"a{seed}", network(seed), hits(0.6 + 0.01 * seed))
        write_hits(tmp_path / f"b{seed}", network(seed, random=True), hits(0.2 + 0.01 * seed))
    (row,) = rows_of(tmp_path)
    assert (row.ours, row.theirs) == ("msbreg resnet18-tiny", "random resnet18-tiny")
    assert row.verdict.word == "better"
    assert row.verdict.difference == pytest.approx(40.0)
    assert row.verdict.low < 40 < row.verdict.high
    assert (row.verdict.units, row.verdict.seeds) == (200, (2, 2))
    assert row.against_twin
    assert row.floor is not None
    assert row.floor.mean == pytest.approx(20.5)


def test_trained_networks_are_compared_with_each_other_and_have_the_floor_beside_them(tmp_path):
    write_hits(tmp_path / "a", network(), hits(0.6))
    write_hits(tmp_path / "b", other(), hits(0.3))
    write_hits(tmp_path / "c", network(random=True), hits(0.2))
    pair = next(row for row in rows_of(tmp_path) if not row.against_twin)
    assert {pair.ours, pair.theirs} == {"msbreg resnet18-tiny", "other"}
    assert pair.floor is not None
    assert pair.floor.mean == pytest.approx(20.0)


def test_for_a_score_where_lower_is_better_the_smaller_one_is_better(tmp_path):
    fields = {"name": "mCE", "higher_is_better": False}
    write_hits(tmp_path / "a", network(), hits(0.2), fields=fields)
    write_hits(tmp_path / "b", network(random=True), hits(0.6), fields=fields)
    (row,) = rows_of(tmp_path)
    assert (row.verdict.difference < 0, row.verdict.word) == (True, "better")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {"steps": 9}}, "(steps)"),
        ({"transform": {"crop": 224}}, "different transform: crop"),
        ({"data": {"train": {"fingerprint": "x"}}}, "different images: train.fingerprint"),
        ({"fields": {"rules": "own rules"}}, "different rules: some rules / own rules"),
        (
            {"fields": {"data": {"name": "pets", "split": "test", "fingerprint": "zz"}}},
            "different test images",
        ),
        ({"units": "others"}, "the names or the order of the images differ"),
    ],
)
def test_unlike_protocols_are_not_compared_but_listed_with_what_differs(tmp_path, changes, reason):
    write_hits(tmp_path / "a", network(), hits(0.6))
    write_hits(tmp_path / "b", network(random=True), hits(0.2), **changes)
    section = section_of(tmp_path)
    assert section.tables == []
    (found,) = section.not_comparable
    assert reason in found.reason
    assert (found.score, found.data) == ("top-1", "pets test")


def test_runs_without_outcomes_are_counted(tmp_path):
    write_scores(tmp_path / "a", network(), score(60.0))
    write_scores(tmp_path / "b", network(random=True), score(20.0))
    section = section_of(tmp_path)
    assert (section.count, section.not_comparable) == (0, [])
    assert section.left_out == (
        "Not compared: 1 comparisons of runs that did not save outcomes.npz."
    )


def test_damaged_outcomes_are_named_and_the_others_are_compared(tmp_path):
    write_hits(tmp_path / "a", network(), hits(0.6))
    write_hits(tmp_path / "b", network(random=True), hits(0.2))
    write_hits(tmp_path / "c", other(), hits(0.2))
    (tmp_path / "c" / "outcomes.npz").write_bytes(b"PK not an archive")
    section = section_of(tmp_path)
    assert section.count == 1
    assert {str(tmp_path / "c" / "outcomes.npz") in n.reason for n in section.not_comparable} == {
        True
    }


def test_comparisons_beyond_the_limits_are_counted(tmp_path):
    for k in range(4):
        write_hits(tmp_path / str(k), other(name=f"n{k}"), hits(0.2 * k))
    section = section_of(tmp_path, trained_pairs=2, comparisons=1)
    assert section.count == 1
    assert section.left_out == (
        "Not compared: 4 more pairs of trained networks; 1 comparisons beyond the first 1."
    )


def test_a_limit_on_pairs_keeps_all_pairs_of_the_first_networks(tmp_path):
    for k in range(4):
        write_hits(tmp_path / str(k), other(name=f"n{k}"), hits(0.2 * k))
    section = section_of(tmp_path, trained_pairs=3)
    pairs = {frozenset(key[:2]) for key in section.words}
    assert pairs == {frozenset(("n0", "n1")), frozenset(("n0", "n2")), frozenset(("n1", "n2"))}


def test_comparisons_that_do_not_fit_into_the_time_are_counted(tmp_path):
    for k in range(3):
        write_hits(tmp_path / str(k), other(name=f"n{k}"), hits(0.2 * k))
    section = section_of(tmp_path, seconds=0)
    assert section.count == 0
    assert section.left_out.startswith(
        "Not compared: 3 comparisons that did not fit into 0 seconds"
    )


def test_p_values_are_corrected_for_all_comparisons_of_the_report(tmp_path):
    draw = np.random.default_rng(0)
    for k in range(3):
        write_hits(tmp_path / str(k), other(name=f"n{k}"), draw.random(200) < 0.5)
    rows = rows_of(tmp_path)
    assert len(rows) == 3
    smallest = min(rows, key=lambda row: row.verdict.p)
    assert smallest.verdict.p_adjusted == pytest.approx(min(1, 3 * smallest.verdict.p))


def test_only_the_last_epoch_of_a_training_run_is_compared_with_other_networks(tmp_path):
    for epoch in (1, 2):
        details = {"method": "msbreg", "seed": 0, "epoch": epoch}
        checkpoint = network(sha256=f"e{epoch}", details=details)
        write_hits(tmp_path / f"e{epoch}", checkpoint, hits(0.3 * epoch))
    write_hits(tmp_path / "other", other(), hits(0.2))
    (row,) = rows_of(tmp_path)
    assert row.verdict.difference == pytest.approx(40.0)


def test_the_figure_has_an_interval_for_each_shown_row(tmp_path):
    for k in range(3):
        write_hits(tmp_path / str(k), other(name=f"n<{k}>"), hits(0.3 * k))
    (table,) = section_of(tmp_path, rows=2).tables
    assert (len(table.rows), table.shown, table.more) == (3, 2, 1)
    assert table.figure.count(" minus ") == 2
    assert "n&lt;0&gt; minus n&lt;1&gt;" in table.figure


def test_a_comparison_by_an_unusual_protocol_has_the_footnote_of_its_column(tmp_path):
    for k in range(3):
        write_hits(tmp_path / f"usual{k}", other(name=f"n{k}"), hits(0.5))
    write_hits(tmp_path / "a", network(), hits(0.6), config={"steps": 9})
    write_hits(tmp_path / "b", network(random=True), hits(0.2), config={"steps": 9})
    networks = collect([tmp_path]).networks
    tables, notes = score_tables(networks)
    section = verdict_section(networks, Memory(), tables=tables)
    marks = {(row.ours, row.theirs): row.note for row in section.tables[0].rows}
    assert marks.pop(("msbreg resnet18-tiny", "random resnet18-tiny")) == "a"
    assert set(marks.values()) == {""}
    assert "steps = 9 (the rest: 3)" in notes["a"]


def test_both_reports_have_the_floor_beside_each_verdict(tmp_path):
    write_hits(tmp_path / "runs" / "a", network(), hits(0.6))
    write_hits(tmp_path / "runs" / "b", other(), hits(0.3))
    write_hits(tmp_path / "runs" / "c", network(random=True), hits(0.1))
    page = write_report([tmp_path / "runs"], tmp_path / "report")
    for form, row in (
        (".html", r">(better|worse)</b></td><td class=.n.>10\.0</td><td class=.n.>200</td>"),
        (".md", r"\| .* \| top-1 \| .* \| (better|worse) \| 10\.0 \| 200 \| 1 / 1 \|"),
    ):
        assert re.search(row, page.with_suffix(form).read_text())
