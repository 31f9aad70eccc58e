"""The report's numbers are means and spreads of recorded scores."""

import numpy as np
import pytest

from msbreg.run.record import outside_protocol
from tests.transfer.report.records import (
    network,
    score,
    write_detector,
    write_knn,
    write_scores,
    write_svm,
)
from transfer.detectors.detection_config import Config
from transfer.report.collection import collect
from transfer.report.score_tables import Limits, score_tables


def tables_of(folder, **limits):
    return score_tables(collect([folder]).networks, Limits(**limits))


def only_table(folder):
    (table,), notes = tables_of(folder)
    return table, notes


def only_entry(folder, row=0):
    table, _ = only_table(folder)
    (entry,) = table.rows[row][1][0].values()
    return entry


def test_seeds_become_one_mean_with_the_sample_standard_deviation(tmp_path):
    values = [60.0, 61.0, 63.5]
    for seed, value in enumerate(values):
        write_knn(tmp_path / str(seed), value, network(seed))
    entry = only_entry(tmp_path)
    assert entry.mean == pytest.approx(np.mean(values))
    assert entry.spread == pytest.approx(np.std(values, ddof=1))
    assert str(entry) == "61.5 ± 1.8 (3 seeds)"


def test_a_single_run_shows_the_standard_error_of_the_test_set(tmp_path):
    write_knn(tmp_path / "a", 61.2, network())
    assert str(only_entry(tmp_path)) == "61.2 ± 2.0 (test)"


def test_splits_that_are_not_the_published_ones_are_named_below_the_table(tmp_path):
    data = {
        "train": {"images": 20, "fingerprint": "aa", "published_images": 1_281_167},
        "val": {"images": 500, "fingerprint": "bb"},
    }
    write_knn(tmp_path / "a", 61.2, network(), data=data)
    table, _ = only_table(tmp_path)
    assert table.incomplete == (
        "Not the published data set: train has 20 images, published are 1,281,167."
    )


def test_complete_splits_are_not_mentioned(tmp_path):
    write_knn(tmp_path / "a", 61.2, network())
    assert only_table(tmp_path)[0].incomplete == ""


def test_repeated_equal_evaluations_do_not_count_as_seeds(tmp_path):
    write_knn(tmp_path / "a", 61.2, network())
    write_knn(tmp_path / "b", 61.2, network())
    assert str(only_entry(tmp_path)) == "61.2 ± 2.0 (test)"


def test_different_evaluations_of_one_network_are_labeled_as_such(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(), config={"seed": 0})
    write_knn(tmp_path / "b", 62.0, network(), config={"seed": 1})
    assert str(only_entry(tmp_path)) == "61.0 ± 1.4 (2 evaluations)"


def test_undefined_values_are_excluded_from_the_mean(tmp_path):
    for seed, value in enumerate((60.0, 62.0, None)):
        write_scores(tmp_path / str(seed), network(seed), score(value))
    assert str(only_entry(tmp_path)) == "61.0 ± 1.4 (2 seeds)"
    write_scores(tmp_path / "b", network(9, name="other"), score(None))
    assert str(only_entry(tmp_path, row=1)) == "–"


@pytest.mark.parametrize(
    "change",
    [
        {"name": "top-5"},
        {"rules": "other rules"},
        {"unit": "s"},
        {"higher_is_better": False},
        {"data": {"name": "pets", "split": "test", "fingerprint": "other"}},
        {"data": {"name": "pets", "split": "val", "fingerprint": "bb"}},
    ],
)
def test_only_comparable_scores_share_a_column(tmp_path, change):
    write_scores(tmp_path / "a", network(0), score(60.0))
    write_scores(tmp_path / "b", network(1), score(62.0))
    assert len(only_table(tmp_path)[0].columns) == 1
    write_scores(tmp_path / "c", network(2), score(70.0, **change))
    tables, _ = tables_of(tmp_path)
    assert sum(len(table.columns) for table in tables) == 2


def test_the_size_of_the_test_split_is_that_of_the_score(tmp_path):
    write_scores(
        tmp_path / "a",
        network(),
        score(60.0, n=1234),
        data={"train": {"images": 9}, "val": {"images": 8}},
    )
    assert only_table(tmp_path)[0].title == "pets test, 1,234 images"


def test_data_with_the_same_name_but_different_images_have_different_titles(tmp_path):
    for fingerprint in ("a" * 64, "b" * 64):
        data = {"name": "pets", "split": "test", "fingerprint": fingerprint}
        write_scores(tmp_path / fingerprint[0], network(), score(60.0, data=data))
    titles = [table.title for table in tables_of(tmp_path)[0]]
    assert titles == [f"pets test, 500 images (data {c * 8})" for c in "ab"]


def test_a_different_protocol_is_not_a_seed_and_gets_a_footnote_with_the_differences(tmp_path):
    for seed in range(2):
        write_knn(tmp_path / str(seed), 60.0 + seed, network(seed))
    write_knn(tmp_path / "other", 70.0, network(2), config={"folds": 5})
    table, notes = only_table(tmp_path)
    usual, other = table.rows[0][1][0].values()
    assert (usual.n, usual.note, other.n, other.note) == (2, "", 1, "a")
    assert "folds = 5 (the rest: absent)" in notes["a"]
    assert collect([tmp_path / "other"]).evaluations[0].digest in notes["a"]


def test_a_different_transform_gets_a_footnote(tmp_path):
    for seed in range(2):
        write_knn(tmp_path / str(seed), 60.0, network(seed))
    write_knn(tmp_path / "other", 70.0, network(random=True), size=224)
    assert only_entry(tmp_path, row=1).note == "a"
    assert "crop = 224 (the rest: 32)" in only_table(tmp_path)[1]["a"]


def test_different_training_images_get_a_footnote(tmp_path):
    for number, fingerprint in enumerate(("x", "x", "y")):
        data = {
            "train": {"images": 5, "fingerprint": fingerprint},
            "val": {"images": 500, "fingerprint": "bb"},
        }
        write_knn(tmp_path / str(number), 60.0, network(number), data=data)
    assert (
        'different images: train.fingerprint = "y" (the rest: "x")' in only_table(tmp_path)[1]["a"]
    )


def test_the_footnote_omits_settings_that_are_not_part_of_the_protocol(tmp_path):
    for number, (rate, output) in enumerate(((0.02, "a"), (0.02, "a"), (0.1, "b"))):
        write_detector(
            tmp_path / str(number),
            network(number),
            digest=str(rate),
            yaml={"SOLVER.BASE_LR": rate, "OUTPUT_DIR": output, "DATALOADER.NUM_WORKERS": number},
            not_protocol=sorted(outside_protocol(Config)),
        )
    (note,) = only_table(tmp_path)[1].values()
    assert note.endswith("column: yaml.SOLVER.BASE_LR = 0.1 (the rest: 0.02)")


def test_the_difference_from_the_random_twin_combines_both_spreads(tmp_path):
    for seed in range(2):
        write_knn(tmp_path / f"ours-{seed}", 60.0 + seed, network(seed))
        write_knn(tmp_path / f"random-{seed}", 30.0 + 2 * seed, network(seed, random=True))
    (row,) = only_table(tmp_path)[0].differences
    ((value, spread),) = row.cells
    assert value == pytest.approx(60.5 - 31.0)
    assert spread == pytest.approx(np.hypot(np.std([0, 1], ddof=1), np.std([0, 2], ddof=1)))


def test_a_difference_without_known_spreads_has_none(tmp_path):
    write_scores(tmp_path / "a", network(), score(60.0))
    write_scores(tmp_path / "b", network(random=True), score(50.0))
    assert only_table(tmp_path)[0].differences[0].cells == [(10.0, None)]


def test_there_is_no_difference_between_protocols(tmp_path):
    write_knn(tmp_path / "a", 60.0, network())
    write_knn(tmp_path / "b", 30.0, network(random=True), config={"folds": 5})
    assert only_table(tmp_path)[0].differences == []


def test_scores_by_class_are_averaged_over_seeds(tmp_path):
    write_svm(tmp_path / "a", network(0), {"cat": 50.0, "dog": 70.0})
    write_svm(tmp_path / "b", network(1), {"cat": 52.0, "dog": 70.0})
    (part,) = only_table(tmp_path)[0].per_class
    assert part.heads == [("msbreg resnet18-tiny", ["SVM mAP"])]
    assert {name: [str(e) for e in row] for name, row in part.rows.items()} == {
        "cat": ["51.0 ± 1.4 (2 seeds)"],
        "dog": ["70.0 ± 0.0 (2 seeds)"],
    }


def test_undefined_class_scores_are_excluded_from_the_mean(tmp_path):
    for seed, per_class in enumerate(({"cat": 50.0, "dog": 70.0}, {"cat": 52.0, "dog": None})):
        write_scores(tmp_path / str(seed), network(seed), score(60.0, per_class=per_class))
    (part,) = only_table(tmp_path)[0].per_class
    assert [str(row[0]) for row in part.rows.values()] == ["51.0 ± 1.4 (2 seeds)", "70.0"]


def test_a_large_collection_is_truncated_with_a_note(tmp_path):
    for number in range(4):
        write_scores(
            tmp_path / str(number),
            network(number, name=f"n{number}"),
            *(score(1.0, name=f"s{k}", per_class=dict.fromkeys("abc", 1.0)) for k in range(3)),
        )
    tables, _ = tables_of(tmp_path, networks=2, columns=2, classes=2, class_networks=1)
    (table,) = tables
    assert (len(table.rows), len(table.columns)) == (2, 2)
    assert table.left_out == "Not shown: 2 more networks, 1 more columns."
    (part,) = table.per_class
    assert (len(part.heads), list(part.rows)) == (1, ["a", "b"])
    assert part.left_out == "Not shown: 3 more networks. At most 2 classes are shown."
