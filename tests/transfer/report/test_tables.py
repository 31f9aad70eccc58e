"""The report's numbers are means and spreads of what was recorded, and of nothing else."""

import json

import numpy as np
import pytest

from tests.transfer.report.records import (
    network,
    write_detector,
    write_knn,
    write_pretraining,
    write_record,
    write_svm,
)
from transfer.report.by_class import per_class_tables
from transfer.report.collect import collect, data_title
from transfer.report.tables import difference_table, score_table


def table_of(folder):
    return score_table(collect([folder]).networks)


def only_entry(table, row=0, column=0):
    (entry,) = table.cells[row][column].values()
    return entry


def test_seeds_become_one_mean_with_the_sample_standard_deviation(tmp_path):
    scores = [60.0, 61.0, 63.5]
    for seed, score in enumerate(scores):
        write_knn(tmp_path / str(seed), score, network(seed))
    table = table_of(tmp_path)
    entry = only_entry(table)
    assert [n.label for n in table.networks] == ["msbreg resnet18-tiny"]
    assert entry.mean == pytest.approx(np.mean(scores))
    assert entry.spread == pytest.approx(np.std(scores, ddof=1))
    assert str(entry) == "61.5 ± 1.8 (3 seeds)"


def test_a_single_run_shows_the_standard_error_of_the_test_set(tmp_path):
    write_knn(tmp_path / "a", 61.2, network())
    assert str(only_entry(table_of(tmp_path))) == "61.2 ± 2.0 (test)"


def test_one_network_evaluated_twice_alike_is_no_second_seed(tmp_path):
    write_knn(tmp_path / "a", 61.2, network())
    write_knn(tmp_path / "b", 61.2, network())
    assert str(only_entry(table_of(tmp_path))) == "61.2 ± 2.0 (test)"


def test_evaluations_of_one_network_that_differ_are_called_so(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(), config={"seed": 0})
    write_knn(tmp_path / "b", 62.0, network(), config={"seed": 1})
    assert str(only_entry(table_of(tmp_path))) == "61.0 ± 1.4 (2 evaluations)"


def test_random_networks_are_seeds_of_one_row_below_the_pretrained(tmp_path):
    write_knn(tmp_path / "a", 30.0, network(0, random=True))
    write_knn(tmp_path / "b", 34.0, network(1, random=True))
    write_knn(tmp_path / "c", 60.0, network())
    table = table_of(tmp_path)
    assert [n.label for n in table.networks] == ["msbreg resnet18-tiny", "random resnet18-tiny"]
    assert str(only_entry(table, row=1)) == "32.0 ± 2.8 (2 seeds)"


def test_networks_of_one_name_but_another_recipe_are_rows_of_their_own(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(0))
    write_knn(
        tmp_path / "b", 50.0, network(1, details={"method": "msbreg", "epochs": 1, "seed": 1})
    )
    labels = [n.label for n in table_of(tmp_path).networks]
    assert labels == [f"msbreg resnet18-tiny (epochs {epochs})" for epochs in (8, 1)]


def test_two_networks_of_one_seed_are_never_averaged(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(0))
    write_knn(tmp_path / "b", 50.0, network(0, sha256="tuned"))
    table = table_of(tmp_path)
    assert sorted(only_entry(table, row).mean for row in range(2)) == [50.0, 60.0]
    assert table.networks[1].label == "msbreg resnet18-tiny [weights tuned]"


def test_networks_whose_pretraining_records_differ_are_rows_of_their_own(tmp_path):
    for seed, epochs in ((0, 3), (1, 4)):
        results = {"sha256": network(seed)["sha256"]}
        write_pretraining(tmp_path / f"pretrain-{seed}", epochs=epochs, results=results)
        write_knn(tmp_path / f"knn-{seed}", 60.0, network(seed))
    assert len(table_of(tmp_path).networks) == 2


def test_other_images_are_another_column(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(0))
    other = {"train": {"images": 9, "fingerprint": "xx"}, "val": {"images": 9, "fingerprint": "yy"}}
    write_knn(tmp_path / "b", 50.0, network(1), data=other)
    assert len(table_of(tmp_path).columns) == 2


def test_another_protocol_is_no_seed_and_gets_a_footnote_that_names_what_differs(tmp_path):
    for seed in range(2):
        write_knn(tmp_path / str(seed), 60.0 + seed, network(seed))
    write_knn(tmp_path / "other", 70.0, network(2), config={"temperature": 0.1})
    table = table_of(tmp_path)
    usual, other = table.cells[0][0].values()
    assert (usual.n, usual.note, other.n, other.note) == (2, "", 1, "a")
    assert "temperature = 0.1 (the rest: 0.07)" in table.notes["a"]
    digest = collect([tmp_path / "other"]).networks[0].runs[0].record["digest"]
    assert digest in table.notes["a"]


def test_another_transform_gets_a_footnote(tmp_path):
    for seed in range(2):
        write_knn(tmp_path / str(seed), 60.0, network(seed))
    write_knn(tmp_path / "other", 70.0, network(random=True), size=224)
    table = table_of(tmp_path)
    assert only_entry(table, row=1).note == "a"
    assert "crop = 224 (the rest: 32)" in table.notes["a"]


def test_unfinished_runs_never_enter_the_scores(tmp_path):
    write_knn(tmp_path / "done", 60.0, network(0))
    for status in ("running", "interrupted", "failed"):
        write_knn(tmp_path / status, 99.0, network(1), status=status)
    collection = collect([tmp_path])
    assert only_entry(score_table(collection.networks)).mean == 60.0
    assert {run.record["status"] for run in collection.unfinished} == {
        "running",
        "interrupted",
        "failed",
    }


def test_kinds_without_a_column_are_kept_apart(tmp_path):
    write_record(tmp_path / "a", kind="segmentation", config={}, results={"miou": 40.0})
    collection = collect([tmp_path])
    assert not collection.networks
    assert [run.kind for run in collection.others] == ["segmentation"]


def test_data_that_differ_in_no_fingerprint_have_titles_of_their_own_all_the_same(tmp_path):
    for name, images in (("a", 9), ("b", 10)):
        write_knn(tmp_path / name, 60.0, network(), data={"train": {"images": images}})
    columns = table_of(tmp_path).columns
    assert len({data_title(c, columns) for c in columns}) == 2


def test_the_difference_to_the_random_twin_is_of_means(tmp_path):
    for seed in range(2):
        write_knn(tmp_path / f"ours-{seed}", 60.0 + seed, network(seed))
        write_knn(tmp_path / f"random-{seed}", 30.0 + seed, network(seed, random=True))
    (row,) = difference_table(table_of(tmp_path))
    assert row.cells == [30.0]


def test_no_difference_is_taken_between_protocols(tmp_path):
    write_knn(tmp_path / "a", 60.0, network())
    write_knn(tmp_path / "b", 30.0, network(random=True), config={"temperature": 1.0})
    assert difference_table(table_of(tmp_path)) == []


def test_precisions_by_class_are_averaged_over_seeds(tmp_path):
    write_svm(tmp_path / "a", network(0), {"cat": 50.0, "dog": 70.0})
    write_svm(tmp_path / "b", network(1), {"cat": 52.0, "dog": 70.0})
    (part,) = per_class_tables(collect([tmp_path]).networks)
    assert part.networks == ["msbreg resnet18-tiny"]
    assert [str(row[0]) for row in part.rows.values()] == [
        "51.0 ± 1.4 (2 seeds)",
        "70.0 ± 0.0 (2 seeds)",
    ]


def test_a_class_without_a_precision_is_left_out_of_its_mean(tmp_path):
    write_svm(tmp_path / "a", network(0), {"cat": 50.0, "dog": 70.0})
    svm = write_svm(tmp_path / "b", network(1), {"cat": 52.0})
    rows = {"cat": {"ap": 52.0}, "dog": {"ap": None}, "emu": {"ap": None}}
    (svm / "per_class.json").write_text(json.dumps(rows))
    (part,) = per_class_tables(collect([tmp_path]).networks)
    said = {name: [str(e) for e in row] for name, row in part.rows.items()}
    assert said == {"cat": ["51.0 ± 1.4 (2 seeds)"], "dog": ["70.0"], "emu": ["None"]}


def test_detectors_have_two_precisions_of_each_class(tmp_path):
    write_detector(tmp_path / "a", network(), classes={"zero": 12.5, "one": None})
    write_detector(tmp_path / "b", network(random=True), classes={"zero": 2.5, "one": 0.0})
    (part,) = per_class_tables(collect([tmp_path]).networks)
    assert (part.kind, part.what, part.numbers) == ("detection", "box", ("AP50", "AP"))
    said = {name: [str(e) for e in row] for name, row in part.rows.items()}
    assert said == {"zero": ["12.5", "12.5", "2.5", "2.5"], "one": ["None", "None", "0.0", "0.0"]}


def test_the_title_has_the_size_of_the_test_split_whatever_the_order_of_names(tmp_path):
    data = {
        "trainval": {"images": 600, "fingerprint": "aa"},
        "test": {"images": 400, "fingerprint": "bb"},
    }
    write_knn(tmp_path / "run", 60.0, network(), data=data)
    column = table_of(tmp_path).columns[0]
    assert data_title(column, [column]) == "digits, 400 test images"


def test_a_network_whose_weights_look_untrained_is_called_so(tmp_path):
    doubted = network(family="moco", name="moco resnet50", warnings=["untouched initialization"])
    write_knn(tmp_path / "a", 12.0, doubted)
    write_knn(tmp_path / "b", 11.0, network(0, random=True, warnings=["an untrained network"]))
    labels = [n.label for n in table_of(tmp_path).networks]
    assert labels == ["moco resnet50 [looks untrained]", "random resnet18-tiny"]
