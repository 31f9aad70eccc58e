"""A watched training run: each backbone that it keeps is evaluated once, in a folder of its own."""

import json
import shutil

import pytest

from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically
from msbreg.run.record import read_record
from pretrain.run import run as pretrain
from tests.pretrain.test_run import small
from transfer import suite
from transfer.orchestration import watch
from transfer.orchestration.suite_config import Config


def trained(folder, data, **changes):
    """A finished run of two epochs, whose backbones are kept."""
    pretrain(small(data, folder, **({"epochs": 2, "keep_every": 1} | changes)))
    return folder


def set_status(folder, status) -> None:
    record = json.loads((folder / "record.json").read_text())
    write_atomically(folder / "record.json", json.dumps(record | {"status": status}).encode())


def test_each_epoch_is_evaluated_once_and_its_record_says_which_it_is(
    tmp_path, make_folder, monkeypatch, capsys
):
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))
    data = make_folder(train=12, val=4)
    config = Config(
        watch=trained(tmp_path / "run", data),
        data=(str(data),),
        output=tmp_path / "suite",
        only=("knn",),
        random_seeds=1,
        random_fine_tuned=0,
        device="cpu",
        workers=1,
    )
    page = suite.run(config)
    folders = sorted(path.parent.parent.name for path in page.parents[1].glob("*/knn/record.json"))
    assert folders == ["epoch-0001", "epoch-0002", "random-0"]
    for epoch in (1, 2):
        record = read_record(tmp_path / "suite" / f"epoch-000{epoch}" / "knn")
        assert record["network"]["details"]["epoch"] == epoch
        assert record["network"]["name"] == "msbreg resnet18-tiny"  # one network in tables
    capsys.readouterr()
    suite.run(config)
    err = capsys.readouterr().err
    assert "epoch-0001/knn is done already" in err
    assert "---- " not in err


@pytest.mark.parametrize(("ends_with_its_last_backbone", "announcements"), [(True, 1), (False, 2)])
def test_new_backbones_are_evaluated_while_the_run_trains_and_the_watch_ends_with_it(
    tmp_path, make_folder, monkeypatch, capsys, ends_with_its_last_backbone, announcements
):
    run = trained(tmp_path / "run", make_folder())
    later = run / "epochs" / "epoch-0002.pth"
    shutil.move(later, tmp_path / "later.pth")
    set_status(run, "running")
    pauses = []

    def pause(seconds: float) -> None:
        """What the training run does between two looks: the third pause is that in which epoch 2 ends."""
        pauses.append(seconds)
        if len(pauses) == 3:
            shutil.move(tmp_path / "later.pth", later)
        if len(pauses) == (3 if ends_with_its_last_backbone else 5):
            set_status(run, "done")

    monkeypatch.setattr(watch.time, "sleep", pause)
    found = [[path.name for path in kept] for kept in watch.rounds(Config(watch=run))]
    assert found == [["epoch-0001.pth"], ["epoch-0001.pth", "epoch-0002.pth"]]
    waiting = f"{run}: the run is running; waiting for its next backbone\n"
    # Once after each evaluation, however often the watch looks.
    assert capsys.readouterr().err.count(waiting) == announcements
    assert pauses == [watch.SECONDS_BETWEEN_LOOKS] * (3 if ends_with_its_last_backbone else 5)


def test_an_interrupted_run_is_waited_for_unless_once_is_given(tmp_path, make_folder):
    run = trained(tmp_path / "run", make_folder())
    set_status(run, "interrupted")
    (kept,) = watch.rounds(Config(watch=run, once=True))
    assert len(kept) == 2


def test_a_folder_that_does_not_exist_is_rejected_with_the_options(tmp_path):
    with pytest.raises(UserError, match="which is not a folder; expected the output folder of"):
        Config(watch=tmp_path / "nowhere").check_inputs()


def test_a_folder_that_cannot_be_watched_is_rejected(tmp_path, make_folder):
    with pytest.raises(UserError, match=r"contains no run of pretrain/run\.py"):
        next(watch.rounds(Config(watch=tmp_path / "nowhere")))
    run = trained(tmp_path / "run", make_folder(), keep_every=0, epochs=1)
    with pytest.raises(UserError, match="keeps no backbones; train with --keep-every N"):
        next(watch.rounds(Config(watch=run)))


def test_a_run_that_ended_without_a_backbone_is_reported(tmp_path, make_folder):
    run = trained(tmp_path / "run", make_folder(), epochs=1)
    shutil.rmtree(run / "epochs")
    set_status(run, "failed")
    with pytest.raises(
        UserError, match=r"has not kept a backbone, and the run has ended \(failed\)"
    ):
        suite.run(Config(watch=run, data=("digits",), output=tmp_path / "suite", device="cpu"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"once": True}, "once needs a training run"),
        ({"watch": "run", "checkpoint": "file.pth"}, "watch evaluates the backbones"),
        ({"watch": "run", "launcher": "slurm"}, "add --once"),
        ({"jobs": 0}, "jobs is 0; expected at least 1"),
        ({"processes_per_task": 2}, "expected --launcher torchrun"),
        ({"launcher": "slurm", "jobs": 2}, "omit --jobs"),
        ({"jobs": 2, "device": "cuda:1"}, "several processes share the GPUs"),
    ],
)
def test_options_that_exclude_each_other_are_rejected(given, message):
    with pytest.raises(UserError, match=message):
        Config(**given)
