"""Published numbers stand beside the scores that they answer."""

import json

import pytest

from tests.transfer.report.published_scores import write_published
from tests.transfer.report.records import network, score, write_knn, write_scores
from transfer.report.collection import collect
from transfer.report.overview.main_scores import summarize
from transfer.report.overview.published_beside import (
    baselines,
    published_rows,
    references,
    tables_of_the_paper,
)
from transfer.report.render import describe, write_report
from transfer.report.score_tables import score_tables

IMAGENET = {"name": "imagenet", "split": "val", "fingerprint": "im"}
RULES = "cosine similarity s, 20 neighbors, weights exp(s / 0.07)"


def twenty_nn(value):
    return score(value, name="20-NN top-1", data=IMAGENET, rules=RULES, n=50_000)


def of_arch(name, *, arch="resnet50", random=False, **details):
    details = {"method": name, "seed": 0} | details
    return network(name=name, sha256=name, arch=arch, random=random, details=details)


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


# ---- Leaderboards and the paper's tables


def test_references_have_the_backbone_of_the_network_and_name_their_source(tmp_path):
    write_scores(tmp_path / "a", of_arch("ours"), twenty_nn(65.0))
    (found,) = references(collect([tmp_path]).networks).values()
    labels = {one.label: one.value for one in found.scores}
    assert labels["MSBReg (K = 4), ResNet-50, 300 epochs [MSBReg paper, Table 4]"] == 66.2
    assert all("ResNet-50" in label for label in labels)
    assert "the settings of this run are unknown" in found.remark


def test_each_protocol_of_a_score_has_its_own_remark(tmp_path):
    settings = {"temperature": 0.07, "vote": "weighted", "metric": "cosine"}
    write_scores(tmp_path / "a", of_arch("ours"), twenty_nn(65.0), config=settings)
    write_scores(
        tmp_path / "b", of_arch("ours"), twenty_nn(66.0), config=settings | {"vote": "hard"}
    )
    as_published, otherwise = references(collect([tmp_path]).networks).values()
    assert "vote" not in as_published.remark
    assert "vote hard (published: weighted)" in otherwise.remark


def test_without_published_scores_of_the_backbone_all_are_references(tmp_path):
    write_scores(tmp_path / "a", of_arch("ours", arch="resnet34"), twenty_nn(65.0))
    (found,) = references(collect([tmp_path]).networks).values()
    assert any("ResNet-50" in one.label for one in found.scores)


def test_scores_that_answer_no_published_number_have_no_references(tmp_path):
    write_scores(tmp_path / "a", of_arch("ours"), score(60.0), twenty_nn(50.0) | {"unit": "s"})
    assert references(collect([tmp_path]).networks) == {}


def test_the_leaderboard_has_the_published_scores_in_its_order(tmp_path):
    for name, value in (("ours", 65.0), ("others", 60.0)):
        write_scores(tmp_path / name, of_arch(name), twenty_nn(value))
    (board,) = describe(collect([tmp_path]), [tmp_path])["leaderboard"].boards
    values = [place.value for place in board.places]
    assert values == sorted(values, reverse=True)
    assert {place.kind for place in board.places} == {"network", "published"}


def test_the_papers_tables_have_the_untrained_network_as_their_floor(tmp_path):
    write_scores(tmp_path / "a", of_arch("ours", epochs=200), twenty_nn(65.0))
    write_scores(tmp_path / "b", of_arch("random resnet50", random=True), twenty_nn(2.0))
    collection = collect([tmp_path])
    ((table,), problems) = tables_of_the_paper(collection, [tmp_path])
    assert (table.number, problems) == ("4", [])
    assert [row.cells[0].text for row in table.rows if row.ours] == ["ours", "random resnet50"]


def test_a_checkpoint_of_a_training_that_went_on_has_its_own_epochs(tmp_path):
    linear = score(
        70.0,
        name="linear top-1",
        data=IMAGENET,
        rules="linear layer on frozen features, one learning rate",
        n=50_000,
    )
    write_scores(tmp_path / "a", of_arch("ours", epochs=800, epoch=90), linear)
    ((table,), _) = tables_of_the_paper(collect([tmp_path]), [tmp_path])
    (row,) = [row for row in table.rows if row.ours]
    hundred, two_hundred, four_hundred = row.cells[2:]
    assert (hundred.text, two_hundred.value, four_hundred.value) == ("70.0", None, None)
