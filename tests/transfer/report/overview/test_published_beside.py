"""Published numbers stand beside the scores that they answer."""

import json

import pytest

from tests.transfer.report.published_scores import write_published
from tests.transfer.report.records import network, write_knn
from transfer.report.collection import collect
from transfer.report.overview.main_scores import summarize
from transfer.report.overview.published_beside import (
    baselines,
    published_rows,
    tables_of_the_paper,
)
from transfer.report.render import write_report
from transfer.report.score_tables import score_tables


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = write_published(tmp_path_factory.mktemp("published") / "runs")
    collection = collect([folder])
    networks = collection.networks
    return collection, summarize(networks, score_tables(networks)[0]), baselines(networks)


def test_the_baselines_of_a_score_are_those_of_its_task(published):
    _, summary, known = published
    (column,) = (c.column for c in summary.columns if c.column.name == "SVM mAP")
    labels = {one.label: one.value for one in known[column]}
    assert labels["Supervised"] == 87.5
    assert all("PASCAL" not in label for label in labels)


def test_the_best_and_the_median_published_value_are_rows(published):
    _, summary, known = published
    best, median = published_rows(summary, known)
    for number, main in enumerate(summary.columns):
        values = [one.value for one in known[main.column]]
        assert best.cells[number].value == max(values)
        assert min(values) <= median.cells[number].value <= max(values)


def test_the_tables_of_the_paper_have_rows_of_both_networks(published):
    collection, _, _ = published
    tables, problems = tables_of_the_paper(collection, [])
    assert problems == []
    assert [table.number for table in tables] == ["2", "4", "5"]
    for table in tables:
        names = {row.cells[0].text for row in table.rows if row.ours}
        assert names == {"ours 100 epochs", "ours, larger batches", "random resnet50"}


def test_scores_of_other_data_have_no_published_numbers(tmp_path):
    write_knn(tmp_path / "a", 60.0, network())
    collection = collect([tmp_path])
    assert baselines(collection.networks) == {}
    assert tables_of_the_paper(collection, [tmp_path]) == ([], [])


def test_an_ablation_is_shown_and_another_table_json_is_named(tmp_path):
    write_knn(tmp_path / "a", 60.0, network())
    one = {"score": "20-NN top-1", "data": "digits val", "seeds": {"0": 61.0}}
    rows = [
        {
            "name": "k2",
            "columns": {},
            "scores": {"knn": {**one, "mean": 61.0, "std": None}},
            "failures": {},
        }
    ]
    record = {"table": "8", "note": "", "rows": rows}
    for name, content in (("ablation", record), ("other", {"table": 3})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.json").write_text(json.dumps(content))
    tables, problems = tables_of_the_paper(collect([tmp_path]), [tmp_path])
    assert [table.number for table in tables] == ["8", "12"]
    assert len(problems) == 1
    assert "other/table.json" in problems[0]


def test_both_reports_name_the_sources_of_published_numbers(tmp_path):
    page = write_report([write_published(tmp_path / "runs")], tmp_path / "report")
    for content in (page.read_text(), page.with_name("report.md").read_text()):
        assert "Best published" in content
        assert "arXiv 2207.03552" in content
        assert "ours, larger batches" in content
