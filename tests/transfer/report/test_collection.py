"""Which runs share a row of the score tables, and the labels of the rows."""

import pytest

from msbreg.run.errors import UserError
from tests.transfer.report.records import (
    network,
    score,
    write_knn,
    write_pretraining,
    write_record,
    write_scores,
)
from transfer.report.collection import collect


def labels(folder):
    return [n.label for n in collect([folder]).networks]


def test_random_networks_are_seeds_of_one_row_below_the_pretrained(tmp_path):
    write_knn(tmp_path / "a", 30.0, network(0, random=True))
    write_knn(tmp_path / "b", 34.0, network(1, random=True))
    write_knn(tmp_path / "c", 60.0, network())
    assert labels(tmp_path) == ["msbreg resnet18-tiny", "random resnet18-tiny"]


def test_networks_with_the_same_name_are_labeled_with_folder_and_seed(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(0))
    recipe = {"method": "msbreg", "epochs": 1, "step": 352, "seed": 1}
    write_knn(tmp_path / "b", 50.0, network(1, details=recipe, source="other/run/checkpoint.pth"))
    assert labels(tmp_path) == [
        "msbreg resnet18-tiny (pretrain-0, seed 0)",
        "msbreg resnet18-tiny (run, seed 1)",
    ]


def test_folders_are_abbreviated_to_the_shortest_unique_ends(tmp_path):
    for name, epochs in (("a", 1), ("b", 2)):
        details = {"epochs": epochs, "seed": 0}
        changes = {"details": details, "source": f"{name}/pretrain/checkpoint.pth", "sha256": name}
        write_knn(tmp_path / name, 60.0, network(0, **changes))
    assert labels(tmp_path) == [f"msbreg resnet18-tiny ({n}/pretrain, seed 0)" for n in "ab"]


def test_different_weights_with_the_same_seed_are_never_averaged(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(0))
    write_knn(tmp_path / "b", 50.0, network(0, sha256="tuned"))
    assert sorted(labels(tmp_path)) == [
        f"msbreg resnet18-tiny (pretrain-0, seed 0) [weights {name}]"
        for name in ("msbreg-0", "tuned")
    ]


def test_networks_with_different_pretraining_protocols_have_separate_rows(tmp_path):
    for seed, epochs in ((0, 3), (1, 4)):
        results = {"sha256": network(seed)["sha256"]}
        write_pretraining(tmp_path / f"pretrain-{seed}", epochs=epochs, results=results)
        write_knn(tmp_path / f"knn-{seed}", 60.0, network(seed))
    assert len(labels(tmp_path)) == 2


def test_unfinished_runs_have_no_row(tmp_path):
    write_knn(tmp_path / "done", 60.0, network(0))
    for status in ("running", "interrupted", "failed"):
        write_knn(tmp_path / status, 99.0, network(1), status=status)
    collection = collect([tmp_path])
    assert [run.folder.name for run in collection.evaluations] == ["done"]
    assert {run.status for run in collection.unfinished} == {"running", "interrupted", "failed"}


def test_an_unknown_protocol_gets_a_row(tmp_path):
    write_scores(tmp_path / "a", network(), score(40.0))
    write_scores(tmp_path / "b", network(), score(1.0), status="failed")
    write_scores(tmp_path / "c", network())
    collection = collect([tmp_path])
    assert [run.kind for run in collection.evaluations] == ["colorization"]
    assert [run.folder.name for run in collection.others] == ["c"]


def test_a_network_whose_weights_look_untrained_is_marked(tmp_path):
    doubted = network(family="moco", name="moco resnet50", warnings=["untouched initialization"])
    write_knn(tmp_path / "a", 12.0, doubted)
    write_knn(tmp_path / "b", 11.0, network(0, random=True, warnings=["an untrained network"]))
    assert labels(tmp_path) == ["moco resnet50 [looks untrained]", "random resnet18-tiny"]


def test_a_folder_without_a_usable_record_is_an_error_that_names_it(tmp_path):
    write_record(tmp_path / "a", kind="knn", config={}, results=[])
    with pytest.raises(
        UserError,
        match=r"a/record\.json is not a complete record; missing or of the wrong type: results",
    ):
        collect([tmp_path])
