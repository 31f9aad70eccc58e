"""The suite runs every protocol and detector on a checkpoint and its twin, then writes the report."""

import fcntl
import json
import os

import pytest

from msbreg.run.errors import Interrupted, RunFailed, UserError
from msbreg.run.options import parse
from msbreg.run.record import SET_ASIDE, read_record
from tests.msbreg.data.classification.fine_grained_trees import FINE_GRAINED_TREES
from tests.msbreg.data.classification.published_trees import imagenet_tree
from tests.msbreg.data.classification.variant_trees import VARIANT_TREES
from tests.transfer.boxes_data import make_voc, tiny_card
from tests.transfer.orchestration.tiny_suites import save_untrained, tiny_config
from transfer import knn, suite
from transfer.orchestration import data_assignment
from transfer.orchestration.planning import measurement


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def cards(tmp_path, monkeypatch):
    """An empty folder of cards."""
    monkeypatch.setattr(data_assignment, "CARDS", tmp_path)
    return tmp_path


def test_the_suite_runs_protocols_and_detectors_on_checkpoint_and_twin_and_reports_them(
    tmp_path, make_folder, cards, capsys
):
    tiny_card(cards, make_voc(tmp_path / "boxes") / "VOC2007")
    data = make_folder(train=20, val=2)
    config = tiny_config(tmp_path, data, detectors=("tiny",), random_seeds=1, random_fine_tuned=1)
    page = suite.run(config).read_text()
    for network in ("pretrained", "random-0"):
        for name in ("knn", "tiny"):
            record = read_record(tmp_path / "runs" / network / name)
            assert record["status"] == "done"
            assert record["config"]["workers"] == 1
    assert "Transfer report" in page
    assert "box AP50" in page
    twin = read_record(tmp_path / "runs" / "random-0" / "knn")
    assert twin["network"]["image_size"] == 16  # that of the checkpoint
    captured = capsys.readouterr()
    assert captured.err.startswith(f"suite of {config.checkpoint} on {data}\n")
    (row,) = [line for line in captured.out.splitlines() if line.startswith("20-NN top-1")]
    value = read_record(tmp_path / "runs" / "pretrained" / "knn")["results"]["top1_20nn"]
    assert f"{value:.1f}" in row
    assert captured.out.endswith(f"report: {tmp_path / 'runs' / 'report' / 'report.html'}\n")


def test_a_failed_task_does_not_stop_the_others(tmp_path, cards, capsys):
    """The linear probe fails; what needs it is not run, and kNN is."""
    imagenet_tree(tmp_path / "data" / "imagenet")
    VARIANT_TREES["imagenet-a"][0](tmp_path / "data" / "imagenet-a")
    (cards / "few_linear.yaml").write_text("representation: cls\n")
    (cards / "few_knn.yaml").write_text("k: [1]\n")
    config = tiny_config(
        tmp_path, tmp_path / "data", cards="few", only=("linear", "knn", "robustness")
    )
    with pytest.raises(RunFailed, match="tasks that failed: 1, not run: 1"):
        suite.run(config)
    out = capsys.readouterr().out
    assert "failed: pretrained/linear: " in out
    needed = "it needs pretrained/linear, which failed"
    assert f"not run: pretrained/robustness-imagenet-a: {needed}" in out
    assert "1-NN top-1" in out
    assert "1-NN top-1" in (tmp_path / "runs" / "report" / "report.md").read_text()


def test_a_signal_stops_the_suite_and_is_no_failure(tmp_path, make_folder, monkeypatch):
    def stop(*arguments):
        raise Interrupted("SIGTERM after step 7")

    monkeypatch.setattr(knn, "run", stop)
    with pytest.raises(Interrupted, match="step 7"):
        suite.run(tiny_config(tmp_path, make_folder(train=20, val=2), only=("knn", "logistic")))
    assert not (tmp_path / "runs" / "pretrained" / "logistic").exists()


def test_the_report_is_written_after_each_run(tmp_path, make_folder, monkeypatch):
    data = make_folder(train=20, val=2)
    cut = data / "val" / "class0" / "000.png"
    knn_run = knn.run

    def spoil_after(*arguments):
        results = knn_run(*arguments)
        cut.write_bytes(b"")
        return results

    monkeypatch.setattr(knn, "run", spoil_after)
    with pytest.raises(RunFailed, match="tasks that failed: 1, not run: 0"):
        suite.run(tiny_config(tmp_path, data, only=("knn", "logistic")))
    assert "20-NN top-1" in (tmp_path / "runs" / "report" / "report.md").read_text()


def test_a_report_that_cannot_be_written_stops_no_task_and_fails_the_suite_at_its_end(
    tmp_path, make_folder, capsys
):
    config = tiny_config(tmp_path, make_folder(train=20, val=2), only=("knn", "logistic"))
    blocking = config.output / "report"
    config.output.mkdir()
    blocking.write_text("a file in place of the folder")
    with pytest.raises(
        RunFailed, match=r"the report in .* cannot be written(.|\n)*The runs are kept"
    ):
        suite.run(config)
    for name in ("knn", "logistic"):
        assert read_record(config.output / "pretrained" / name)["status"] == "done"
    captured = capsys.readouterr()
    assert "20-NN top-1" in captured.out
    assert "report: " not in captured.out
    blocking.unlink()
    assert suite.run(config).is_file()
    assert "pretrained/knn is done already" in capsys.readouterr().err


def test_a_checkpoint_that_disappears_fails_its_tasks_and_keeps_their_runs(
    tmp_path, make_folder, monkeypatch
):
    config = tiny_config(tmp_path, make_folder(train=20, val=2), only=("knn", "logistic"))
    suite.run(config)
    before = finished(config)
    (config.output / "pretrained" / "knn" / "record.json").unlink()
    knn_run = knn.run

    def remove_after(*arguments):
        results = knn_run(*arguments)
        config.checkpoint.unlink()
        return results

    monkeypatch.setattr(knn, "run", remove_after)
    with pytest.raises(RunFailed, match="tasks that failed: 1, not run: 0"):
        suite.run(config)
    assert finished(config)["pretrained/logistic"] == before["pretrained/logistic"]


def test_data_sets_below_one_root_are_found_and_run_with_their_settings(tmp_path, cards):
    """A probe of three classes of ImageNet, two images of each in ImageNet-A, and a tiny Pets."""
    imagenet_tree(tmp_path / "data" / "imagenet")
    VARIANT_TREES["imagenet-a"][0](tmp_path / "data" / "imagenet-a")
    FINE_GRAINED_TREES["pets"][0](tmp_path / "data" / "pets")
    (cards / "few_logistic.yaml").write_text("regularizations: [1.0]\nval_split: test\n")
    (cards / "fine_grained_logistic.yaml").write_text("regularizations: [1.0]\nval_split: test\n")
    (cards / "few_linear.yaml").write_text("learning_rates: [0.1]\nepochs: 1\n")
    config = tiny_config(
        tmp_path,
        tmp_path / "data",
        cards="few",
        only=("robustness-imagenet-a", "logistic-pets"),
        random_seeds=1,
    )
    suite.run(config)
    for network in ("pretrained", "random-0"):
        for name in ("linear", "logistic-pets", "robustness-imagenet-a"):
            assert read_record(tmp_path / "runs" / network / name)["status"] == "done"
    logistic = read_record(tmp_path / "runs" / "pretrained" / "logistic-pets")["config"]
    assert (logistic["train_split"], logistic["val_split"]) == ("trainval", "test")
    assert logistic["metric"] == "mean_per_class"


def test_protocols_on_the_same_data_share_one_pass_over_the_images(tmp_path, make_folder, capsys):
    (tmp_path / "few_linear.yaml").write_text("")
    suite.run(tiny_config(tmp_path, make_folder(train=20, val=4), only=("knn", "logistic")))
    lines = capsys.readouterr().err.splitlines()
    passes = [line for line in lines if line.startswith("features of")]
    assert [line.rpartition(" ")[2] == "cache" for line in passes] == [False, False, True, True]


# ---- Completed, changed and foreign runs


def finished(config) -> dict[str, int]:
    """When the record of each run was written, in nanoseconds: a repeated run has another time."""
    found = {}
    for file in sorted(config.output.glob("*/*/record.json")):
        if SET_ASIDE not in file.parts:
            found[str(file.parent.relative_to(config.output))] = file.stat().st_mtime_ns
    return found


def test_only_the_task_whose_record_was_deleted_runs_again(tmp_path, make_folder, capsys):
    config = tiny_config(tmp_path, make_folder(train=20, val=4), only=("knn", "logistic"))
    suite.run(config)
    before = finished(config)
    (config.output / "pretrained" / "logistic" / "record.json").unlink()
    capsys.readouterr()
    suite.run(config)
    after = finished(config)
    assert [key for key in before if before[key] != after[key]] == ["pretrained/logistic"]
    err = capsys.readouterr().err
    assert "pretrained/knn is done already" in err
    assert "record.json is missing, but there are other files (" in err
    assert (config.output / SET_ASIDE / "pretrained" / "logistic-1" / "path.json").exists()


def test_another_checkpoint_runs_again_and_the_old_run_is_moved_aside(
    tmp_path, make_folder, capsys
):
    config = tiny_config(tmp_path, make_folder(train=20, val=4))
    suite.run(config)
    old = read_record(config.output / "pretrained" / "knn")["network"]["sha256"]
    save_untrained(config.checkpoint, seed=8)
    suite.run(config)
    assert "changed since then: the weights" in capsys.readouterr().err
    aside = config.output / SET_ASIDE / "pretrained" / "knn-1"
    assert read_record(aside)["network"]["sha256"] == old
    new = read_record(config.output / "pretrained" / "knn")["network"]["sha256"]
    assert new != old
    page = (config.output / "report" / "report.md").read_text()
    assert new[:8] in page
    assert old[:8] not in page


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"schema": 2, "kind": "knn", "sta', "is not valid JSON|cannot be read|not JSON"),
        (b'{"title": "something else"}', "has schema 'None'"),
    ],
    ids=["half-written", "foreign"],
)
def test_a_record_that_cannot_be_read_is_moved_aside_and_the_task_runs(
    tmp_path, make_folder, capsys, content, words
):
    config = tiny_config(tmp_path, make_folder(train=20, val=4))
    folder = config.output / "pretrained" / "knn"
    folder.mkdir(parents=True)
    (folder / "record.json").write_bytes(content)
    suite.run(config)
    assert read_record(folder)["status"] == "done"
    aside = config.output / SET_ASIDE / "pretrained" / "knn-1"
    assert (aside / "record.json").read_bytes() == content
    err = capsys.readouterr().err
    assert f"Moved to {aside}; running it again" in err
    assert any(word in err for word in words.split("|")), err


def test_a_record_of_schema_1_is_replaced_with_clear_words(tmp_path, make_folder, capsys):
    config = tiny_config(tmp_path, make_folder(train=20, val=4))
    suite.run(config)
    file = config.output / "pretrained" / "knn" / "record.json"
    content = json.loads(file.read_text())
    content["schema"], content["config"]["k"] = 1, [5]
    del content["scores"]
    file.write_text(json.dumps(content))
    capsys.readouterr()
    suite.run(config)
    assert "(a record of schema 1, of an earlier version): the card (k = [20, 200] here)" in (
        capsys.readouterr().err
    )
    assert read_record(file.parent)["schema"] == 2


# ---- The output folder


def test_a_second_suite_on_the_same_folder_stops_at_once(tmp_path, make_folder):
    config = tiny_config(tmp_path, make_folder(train=20, val=4))
    config.output.mkdir()
    with open(config.output / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        file.flush()
        with pytest.raises(UserError, match=rf"another run is writing .*process {os.getpid()} on"):
            suite.run(config)
    assert not (config.output / "pretrained").exists()


def test_an_output_that_is_a_file_is_reported_before_any_work(tmp_path, make_folder):
    config = tiny_config(tmp_path, make_folder(), output=tmp_path / "file" / "runs")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="output folder .* cannot be written"):
        config.check_inputs()


# ---- The first look


def test_a_network_that_has_not_learned_anything_is_not_evaluated(tmp_path, make_folder, capsys):
    config = tiny_config(tmp_path, make_folder(train=20, val=4), skip=(), random_seeds=1)
    with pytest.raises(RunFailed, match=r"pretrained has not learned anything: .*(.|\n)*--anyway"):
        suite.run(config)
    assert not (config.output / "pretrained" / "knn").exists()
    assert not (config.output / "random-0").exists()
    out = capsys.readouterr().out
    assert "not run: pretrained/knn: the network has not learned anything" in out
    assert "not run: random-0/knn: it is the twin of a network that" in out


def test_with_anyway_it_is_evaluated_nevertheless(tmp_path, make_folder, capsys):
    config = tiny_config(tmp_path, make_folder(train=20, val=4), skip=(), anyway=True)
    suite.run(config)
    assert read_record(config.output / "pretrained" / "knn")["status"] == "done"
    assert "HAS NOT LEARNED ANYTHING" in capsys.readouterr().err


# ---- Options and announcements


def test_the_plan_shows_every_task_and_runs_nothing(tmp_path, make_folder, monkeypatch, capsys):
    monkeypatch.setattr(measurement, "SECONDS", 0.02)  # of each probe
    config = tiny_config(tmp_path, make_folder(train=20, val=4), only=(), plan=True, random_seeds=1)
    suite.run(config)
    out = capsys.readouterr().out
    for key in ("pretrained/knn", "pretrained/semisupervised", "random-0/logistic"):
        assert any(line.startswith(key) and "to run" in line for line in out.splitlines()), key
    assert not config.output.exists()


def test_lists_of_protocols_are_given_with_commas():
    config, _ = parse(suite.Config, ["--only", "knn,linear", "--skip", "gate", "--data", "digits"])
    assert next(p.name for p in config.selected()) == "knn"
    assert {p.script for p in config.selected()} == {"knn", "linear"}


@pytest.mark.parametrize(("data", "announced"), [(None, True), ("digits", False)])
def test_without_data_the_embedded_digits_are_announced(
    tmp_path, monkeypatch, capsys, data, announced
):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(knn, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        suite.run(tiny_config(tmp_path, data))
    assert ("EMBEDDED DIGITS" in capsys.readouterr().err) == announced


def test_several_checkpoints_have_folders_of_their_own_and_share_their_twins(
    tmp_path, make_folder, capsys
):
    files = (
        save_untrained(tmp_path / "ours" / "checkpoint.pth", seed=1),
        save_untrained(tmp_path / "theirs" / "checkpoint.pth", seed=2),
    )
    config = tiny_config(tmp_path, make_folder(train=20, val=4), checkpoints=files, random_seeds=1)
    suite.run(config)
    assert sorted(finished(config)) == [
        "ours/knn",
        "random-resnet18-narrow-16-0/knn",
        "theirs/knn",
    ]
    out = capsys.readouterr().out
    assert [
        word for line in out.splitlines() for word in line.split() if word in ("ours", "theirs")
    ]
    suite.run(tiny_config(tmp_path, config.data[0], checkpoints=files[::-1], random_seeds=1))
    assert not (config.output / SET_ASIDE).exists()
