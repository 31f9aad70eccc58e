"""The summary has one main score per protocol and data set, and marks the best network."""

import numpy as np
import pytest

from tests.transfer.report.records import network, score, write_hits, write_knn, write_scores
from transfer.report.collection import collect
from transfer.report.overview.main_scores import summarize
from transfer.report.render import write_report
from transfer.report.score_tables import score_tables


def summary_of(folder):
    networks = collect([folder]).networks
    return summarize(networks, score_tables(networks)[0])


def test_only_the_first_score_of_a_run_is_a_main_score(tmp_path):
    write_scores(tmp_path / "a", network(), score(40.0), score(70.0, name="top-5"))
    summary = summary_of(tmp_path)
    assert [(c.kind, c.column.name, c.data) for c in summary.columns] == [
        ("colorization", "top-1", "pets test")
    ]
    assert [cell.entry.mean for row in summary.rows for cell in row.cells] == [40.0]


def test_scores_by_different_rules_have_columns_of_their_own(tmp_path):
    write_scores(tmp_path / "a", network(), score(40.0, rules="1 % of the labels"))
    write_scores(tmp_path / "b", network(), score(60.0, rules="10 % of the labels"))
    assert len(summary_of(tmp_path).columns) == 2


def test_the_untrained_twin_is_the_last_row_and_differences_refer_to_it(tmp_path):
    write_knn(tmp_path / "a", 30.0, network(0, random=True))
    write_knn(tmp_path / "b", 60.0, network())
    rows = summary_of(tmp_path).rows
    assert [row.role for row in rows] == ["network", "untrained"]
    assert rows[0].cells[0].difference == pytest.approx(30.0)
    assert rows[1].cells[0].difference is None


def test_the_best_of_several_networks_is_marked_also_if_lower_is_better(tmp_path):
    for name, value in (("one", 40.0), ("two", 50.0)):
        provenance = network(name=name, sha256=name)
        scores = score(value), score(value, name="error", higher_is_better=False)
        write_scores(tmp_path / name, provenance, scores[0])
        write_scores(tmp_path / f"{name}-error", provenance, scores[1], config={"steps": 4})
    summary = summary_of(tmp_path)
    best = {
        column.column.name: [row.label for row in summary.rows if row.cells[k].best]
        for k, column in enumerate(summary.columns)
    }
    assert best == {"top-1": ["two"], "error": ["one"]}


def test_a_single_network_is_not_marked_as_the_best(tmp_path):
    write_knn(tmp_path / "a", 60.0, network())
    write_knn(tmp_path / "b", 30.0, network(random=True))
    assert not any(cell.best for row in summary_of(tmp_path).rows for cell in row.cells)


def test_only_the_last_epoch_of_a_training_run_has_a_row(tmp_path):
    for epoch in (1, 2):
        details = {"method": "byol", "seed": 0, "epoch": epoch}
        source = f"runs/byol/epochs/epoch-{epoch}.pth"
        provenance = network(sha256=f"byol-{epoch}", source=source, details=details)
        write_scores(tmp_path / str(epoch), provenance, score(40.0 + epoch))
    summary = summary_of(tmp_path)
    assert [row.cells[0].entry.mean for row in summary.rows] == [42.0]
    assert summary.left_out == "Not shown: 1 checkpoints of earlier epochs."


def test_a_network_that_was_not_evaluated_has_no_cell(tmp_path):
    write_scores(tmp_path / "a", network(name="one", sha256="one"), score(40.0))
    other = score(40.0, data={"name": "dtd", "split": "test", "fingerprint": "cc"})
    write_scores(tmp_path / "b", network(name="two", sha256="two"), other)
    cells = {
        row.label: [cell is not None for cell in row.cells] for row in summary_of(tmp_path).rows
    }
    assert cells == {"one": [True, False], "two": [False, True]}


@pytest.mark.parametrize("order", [("ours", "random"), ("random", "ours")])
def test_a_cell_has_the_verdict_on_its_difference_in_either_order(tmp_path, order):
    write_scores(tmp_path / "a", network(name="ours"), score(40.0))
    write_scores(tmp_path / "b", network(random=True, name="random"), score(39.0))
    networks = collect([tmp_path]).networks
    tables, _ = score_tables(networks)
    word = "better" if order[0] == "ours" else "worse"
    words = {(*order, tables[0].columns[0], networks[0].runs[0].variant): word}
    rows = summarize(networks, tables, words).rows
    assert [row.cells[0].word for row in rows] == ["better", ""]


def test_a_difference_and_its_verdict_are_of_the_protocol_that_is_shown(tmp_path):
    for number in range(3):
        write_scores(tmp_path / f"usual{number}", network(name="ours"), score(40.0))
    other = {"config": {"steps": 9}}
    write_scores(tmp_path / "ours", network(name="ours"), score(70.0), **other)
    write_scores(tmp_path / "random", network(random=True, name="random"), score(10.0), **other)
    networks = collect([tmp_path]).networks
    tables, _ = score_tables(networks)
    words = {
        ("ours", "random", tables[0].columns[0], run.variant): "better" for run in networks[1].runs
    }
    cell = summarize(networks, tables, words).rows[0].cells[0]
    assert (cell.entry.mean, cell.difference, cell.word) == (40.0, None, "")


def test_the_verdict_is_written_beside_the_difference(tmp_path):
    for name, hits in (("ours", 102), ("random", 100)):
        evaluated = network(random=name == "random", name=name)
        write_hits(tmp_path / "runs" / name, evaluated, np.arange(200) < hits)
    page = write_report([tmp_path / "runs"], tmp_path / "report")
    text = page.with_name("report.md").read_text()
    assert "(+1.0, unclear)" in text
    assert '(+1.0 <b class="unclear">unclear</b>)' in page.read_text()
    for content in (page.read_text(), text):
        assert "not clearly different from its untrained twin in one main score" in content


def test_main_scores_of_one_name_and_data_are_told_apart_by_the_end_of_their_rules(tmp_path):
    for number, share in enumerate(("1 %", "10 %")):
        one = score(40.0 + number, rules=f"fine-tuned network, trained on {share}")
        write_scores(tmp_path / f"{number}", network(), one)
    assert [column.title for column in summary_of(tmp_path).columns] == [
        "top-1 on pets test, trained on 1 %",
        "top-1 on pets test, trained on 10 %",
    ]
