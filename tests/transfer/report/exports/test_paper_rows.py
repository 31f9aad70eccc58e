"""Networks stand beside published numbers that answer the same question."""

import json

import pytest

from tests.transfer.report.records import network, score, write_scores
from transfer.report.collection import collect
from transfer.report.exports.paper_rows import paper_rows, references, tables_of_the_paper

IMAGENET = {"name": "imagenet", "split": "val", "fingerprint": "im"}
RULES = "cosine similarity s, 20 neighbors, weights exp(s / 0.07)"


def published(value):
    return score(value, name="20-NN top-1", data=IMAGENET, rules=RULES, n=50_000)


def of_arch(seed=0, **changes):
    return network(seed, arch="resnet50", sha256=f"{changes}-{seed}", **changes)


def write(folder):
    details = {"method": "msbreg", "epochs": 200, "batch_size": 512}
    for seed, value in enumerate((64.0, 66.0)):
        provenance = of_arch(seed, name="ours", details=details | {"seed": seed})
        write_scores(folder / f"a{seed}", provenance, published(value))
    write_scores(folder / "b", of_arch(random=True, name="random resnet50"), published(2.0))
    return folder


def test_rows_have_means_with_spreads_and_the_settings_of_pretraining(tmp_path):
    ours, untrained = paper_rows(collect([write(tmp_path)]).networks)
    assert (ours.label, ours.arch, ours.epochs, ours.batch_size) == ("ours", "resnet50", 200, 512)
    (found,) = ours.scores
    assert found.score.value == pytest.approx(65.0)
    assert found.text(1) == "65.0 ± 1.4 (2 seeds)"
    assert found.settings == {"steps": 3}
    assert (untrained.label, untrained.epochs) == ("random resnet50", 0)


def test_the_epochs_of_an_unfinished_training_are_those_so_far(tmp_path):
    details = {"method": "msbreg", "epochs": 200, "epoch": 40, "seed": 0}
    write_scores(tmp_path / "a", of_arch(details=details), published(40.0))
    assert paper_rows(collect([tmp_path]).networks)[0].epochs == 40


def test_the_papers_table_has_the_users_rows_and_the_floor(tmp_path):
    tables, problems = tables_of_the_paper(collect([write(tmp_path)]).networks, [tmp_path])
    (table,) = tables
    assert (table.number, problems) == ("4", [])
    assert [row.cells[0].text for row in table.rows if row.ours] == ["ours", "random resnet50"]


def test_scores_that_answer_no_published_number_make_no_table(tmp_path):
    write_scores(tmp_path / "a", network(), score(60.0), published(50.0) | {"unit": "s"})
    networks = collect([tmp_path]).networks
    assert tables_of_the_paper(networks, [tmp_path]) == ([], [])
    assert references(networks) == {}


def test_references_have_the_backbone_of_the_network_and_name_their_source(tmp_path):
    (found,) = references(collect([write(tmp_path)]).networks).values()
    labels = {one.label: one.value for one in found.scores}
    assert labels["MSBReg (K = 4), ResNet-50, 300 epochs [MSBReg paper, Table 4]"] == 66.2
    assert all("ResNet-50" in label for label in labels)
    assert "settings are not known" in found.remark


def test_an_ablation_has_a_table_and_an_invalid_one_is_named(tmp_path):
    write(tmp_path / "runs")
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    one = {"score": "linear top-1", "data": "digits", "seeds": {"0": 61.0}}
    row = {
        "name": "k4-b-s",
        "columns": {},
        "scores": {"linear top-1": one | {"mean": 61.0, "std": None}},
        "failures": {},
    }
    content = {"table": "8", "note": "", "rows": [row]}
    (tmp_path / "good" / "table.json").write_text(json.dumps(content))
    (tmp_path / "bad" / "table.json").write_text("{}")
    tables, problems = tables_of_the_paper(collect([tmp_path]).networks, [tmp_path])
    assert [table.number for table in tables] == ["4", "8", "12"]
    (problem,) = problems
    assert str(tmp_path / "bad" / "table.json") in problem
