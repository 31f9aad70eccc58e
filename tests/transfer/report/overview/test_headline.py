"""The first sentences of the report state what was evaluated, how it compares, and the worst warning."""

import pytest

from tests.transfer.report.records import network, score, write_knn, write_record, write_scores
from transfer.report.collection import collect
from transfer.report.overview.headline import headline
from transfer.report.overview.main_scores import summarize
from transfer.report.overview.overview_chart import Baseline
from transfer.report.score_tables import score_tables


def headline_of(folder, *words, baselines=()):
    """The headline, with verdicts on the main scores: (ours, theirs, word) of each.

    Args:
        baselines: published values of every main score.
    """
    collection = collect([folder])
    tables, _ = score_tables(collection.networks)
    verdicts = {
        (ours, theirs, column, run.variant): word
        for ours, theirs, word in words
        for table in tables
        for column in table.columns
        for run in collection.evaluations
    }
    summary = summarize(collection.networks, tables, verdicts)
    return headline(
        collection,
        summary,
        tables,
        words=verdicts,
        published={column.column: baselines for column in summary.columns if baselines},
    )


def write_twin(folder, value=30.0):
    return write_knn(folder, value, network(random=True))


def test_one_network_and_its_twin_are_compared_in_one_sentence(tmp_path):
    write_knn(tmp_path / "a", 60.0, network())
    write_twin(tmp_path / "b")
    found = headline_of(tmp_path)
    assert found.sentences == [
        "msbreg resnet18-tiny was evaluated by kNN on digits val.",
        "It is better than its untrained twin in one main score, without a test of the difference.",
    ]
    assert (found.warning, found.warnings) == ("", 0)


def test_worse_and_equal_main_scores_are_counted(tmp_path):
    for number, (ours, twins) in enumerate(((50, 40), (30, 40), (40, 40))):
        data = {"name": f"set {number}", "split": "test", "fingerprint": "bb"}
        write_scores(tmp_path / f"a{number}", network(), score(ours, data=data))
        write_scores(tmp_path / f"b{number}", network(random=True), score(twins, data=data))
    assert headline_of(tmp_path).sentences[1] == (
        "It is better than its untrained twin in 1 of 3 main scores, worse in 1 (top-1 on set 1 test), "
        "equal in 1 (top-1 on set 2 test), without a test of the difference."
    )


def test_a_lower_error_is_better(tmp_path):
    for name, value, provenance in (
        ("a", 0.4, network()),
        ("b", 0.9, network(random=True)),
    ):
        error = score(value, name="RMSE", unit="m", higher_is_better=False)
        write_scores(tmp_path / name, provenance, error)
    assert headline_of(tmp_path).sentences[1].startswith("It is better than its untrained twin")


def test_the_best_of_several_networks_is_named(tmp_path):
    for name, value in (("one", 50.0), ("two", 60.0)):
        write_knn(tmp_path / name, value, network(name=name, sha256=name))
    found = headline_of(tmp_path)
    assert found.sentences == [
        "one and two were evaluated by kNN on digits val.",
        "Of several networks, two has the best mean in one main score.",
    ]
    assert found.warning.startswith("No untrained network was evaluated")


def test_a_verdict_replaces_the_sign_of_the_difference(tmp_path):
    write_knn(tmp_path / "a", 60.0, network())
    write_twin(tmp_path / "b", 59.0)
    names = ("msbreg resnet18-tiny", "random resnet18-tiny")
    for word, phrase in (
        ("unclear", "not clearly different from"),
        ("better", "better than"),
        ("same", "the same as"),
    ):
        assert headline_of(tmp_path, (*names, word)).sentences[1] == (
            f"It is {phrase} its untrained twin in one main score."
        )


@pytest.mark.parametrize(
    ("ours", "theirs", "word", "clear"),
    [("two", "one", "better", 1), ("one", "two", "worse", 1), ("one", "two", "unclear", 0)],
)
def test_the_best_network_is_compared_with_the_others_in_either_order(
    tmp_path, ours, theirs, word, clear
):
    for name, value in (("one", 50.0), ("two", 60.0)):
        write_knn(tmp_path / name, value, network(name=name, sha256=name))
    assert headline_of(tmp_path, (ours, theirs, word)).sentences[1] == (
        "Of several networks, two has the best mean in one main score; tests against every other network "
        f"confirm {clear or 'none'}."
    )


def test_many_networks_are_counted_instead_of_listed(tmp_path):
    for number in range(6):
        provenance = network(name=f"n{number}", sha256=f"n{number}")
        write_knn(tmp_path / f"{number}", 50.0 + number, provenance)
    write_twin(tmp_path / "twin")
    sentences = headline_of(tmp_path).sentences
    assert sentences[0].startswith("6 networks were evaluated")
    assert sentences[-2] == "The summary has 2 more networks."


def test_weights_that_look_untrained_are_worse_than_other_warnings(tmp_path):
    suspicious = network(warnings=["its weights look untrained"])
    write_knn(tmp_path / "a", 60.0, suspicious, warnings=["a list of learning rates is short"])
    write_twin(tmp_path / "b")
    write_record(tmp_path / "c", kind="svm", config={}, status="failed", error="the disk is full")
    found = headline_of(tmp_path)
    assert found.warning.endswith("its weights look untrained")
    assert found.warnings == 3


def test_without_an_evaluation_the_headline_says_so(tmp_path):
    write_record(tmp_path / "a", kind="knn", config={}, status="failed", error="no space")
    found = headline_of(tmp_path)
    assert found.sentences == ["No finished evaluation was found."]
    assert "no space" in found.warning


def test_the_checkpoint_is_named_with_its_epochs_and_its_sha256(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(sha256="0123456789abcdef"))
    write_twin(tmp_path / "b")
    assert headline_of(tmp_path).checkpoints == [
        ("msbreg resnet18-tiny", "runs/pretrain-0/checkpoint.pth, 8 epochs, sha256 0123456789ab")
    ]


def test_one_training_seed_is_a_caution_and_several_are_not(tmp_path):
    write_knn(tmp_path / "a", 60.0, network(0))
    (caution,) = headline_of(tmp_path).cautions
    assert caution == ("Every network has one training seed: another seed may give other results.")
    write_knn(tmp_path / "b", 61.0, network(1))
    found = headline_of(tmp_path)
    assert found.cautions == []
    assert found.checkpoints[0][1].endswith("and 1 more seed")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (80.0, "better than their median in one main score, and better than the best of them in 1"),
        (
            65.0,
            "better than their median in one main score, and better than the best of them in none",
        ),
        (
            50.0,
            "better than their median in no main score, and better than the best of them in none",
        ),
    ],
)
def test_scores_are_placed_beside_published_ones(tmp_path, value, words):
    write_knn(tmp_path / "a", value, network())
    published = [Baseline(name, number, "") for name, number in (("x", 50), ("y", 60), ("z", 70))]
    found = headline_of(tmp_path, baselines=published)
    assert found.sentences[-1] == f"Beside published numbers, it is {words}."
    assert found.cautions[-1].startswith("Published numbers follow the protocols of their papers")


def test_a_warning_says_which_runs_have_it(tmp_path):
    for seed in range(3):
        write_knn(tmp_path / f"{seed}", 60.0, network(seed), warnings=["the list is short"])
    write_twin(tmp_path / "twin")
    assert headline_of(tmp_path).warning == (
        "kNN of msbreg resnet18-tiny and 2 more runs: the list is short"
    )
