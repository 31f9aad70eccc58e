"""Scores over epochs belong to one training run and one protocol."""

from tests.transfer.report.records import network, score, write_scores
from transfer.report.collection import collect
from transfer.report.epoch_curves import earlier_epochs, epoch_curves


def checkpoint(epoch, run="runs/a", **details):
    return network(
        sha256=f"{run}-{epoch}",
        source=f"{run}/epochs/epoch-{epoch:04d}.pth",
        details={"method": "msbreg", "seed": 0, "epoch": epoch, "step": 9 * epoch} | details,
    )


def write(folder, name, provenance, value, **content):
    write_scores(folder / name, provenance, score(value), **content)


def curves_of(folder):
    return epoch_curves(collect([folder]).networks)


def values(curve):
    return {
        epoch: [entry and entry.mean for entry in entries] for epoch, entries in curve.rows.items()
    }


def test_the_scores_of_one_training_run_are_sorted_by_epoch_with_the_untrained_level(tmp_path):
    for epoch, value in ((20, 50.0), (3, 30.0), (10, 40.0)):
        write(tmp_path, str(epoch), checkpoint(epoch), value)
    write(tmp_path, "random", network(random=True), 20.0)
    (curve,), more = curves_of(tmp_path)
    assert more == 0
    assert curve.columns == ["top-1 [%], pets test"]
    assert values(curve) == {3: [30.0], 10: [40.0], 20: [50.0]}
    assert [entry.mean for entry in curve.floor if entry] == [20.0]
    assert ">untrained</text>" in curve.figure


def test_training_runs_in_different_folders_or_with_different_settings_have_their_own_curves(
    tmp_path,
):
    for epoch in (1, 2):
        write(tmp_path, f"a{epoch}", checkpoint(epoch), 30.0)
        write(tmp_path, f"b{epoch}", checkpoint(epoch, run="runs/b"), 40.0)
        write(tmp_path, f"c{epoch}", checkpoint(epoch, run="runs/c", views=4), 50.0)
    curves, _ = curves_of(tmp_path)
    assert [values(curve) for curve in curves] == [{1: [v], 2: [v]} for v in (30.0, 40.0, 50.0)]


def test_one_epoch_is_no_curve(tmp_path):
    write(tmp_path, "a", checkpoint(5), 30.0)
    write(tmp_path, "b", network(1), 30.0)
    assert curves_of(tmp_path) == ([], 0)


def test_the_usual_protocol_is_drawn_and_others_are_counted(tmp_path):
    for epoch in (1, 2, 3):
        write(tmp_path, str(epoch), checkpoint(epoch), 10.0 * epoch)
    write(tmp_path, "other", checkpoint(3), 99.0, config={"steps": 9})
    write(tmp_path, "random", network(random=True), 20.0, config={"steps": 9})
    ((curve,), _) = curves_of(tmp_path)
    assert values(curve) == {1: [10.0], 2: [20.0], 3: [30.0]}
    assert curve.floor == [None]
    assert curve.left_out == "Not shown: 1 scores by other protocols."


def test_an_epoch_that_was_not_evaluated_by_a_protocol_is_none(tmp_path):
    for epoch in (1, 2, 3):
        found = [score(10.0), score(20.0, name="linear top-1")][: 1 if epoch == 2 else 2]
        write_scores(tmp_path / str(epoch), checkpoint(epoch), *found)
    ((curve,), _) = curves_of(tmp_path)
    assert values(curve)[2] == [10.0, None]


def test_earlier_epochs_are_those_before_the_last_of_their_training_run(tmp_path):
    for epoch in (1, 2):
        write(tmp_path, f"a{epoch}", checkpoint(epoch), 30.0)
    write(tmp_path, "b", checkpoint(1, run="runs/b"), 30.0)
    write(tmp_path, "c", network(1, name="other"), 30.0)
    networks = collect([tmp_path]).networks
    early = {n.label for n in networks if any(run.folder.name == "a1" for run in n.runs)}
    assert earlier_epochs(networks) == early
