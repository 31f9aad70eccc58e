"""Runs that keep outcomes score again as in their record, and are compared with each other."""

import json
import shutil

import pytest

from msbreg.run.record import read_record
from tests.conftest import write_folder
from tests.processes import Program
from tests.tools.test_score import ROOT, printed
from tools.score import main
from transfer import knn
from transfer.verdicts.outcomes import FILE, load_outcomes, save_outcomes


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs of kNN with three random networks on the same images: folders 0, 1, 2."""
    root = tmp_path_factory.mktemp("runs")
    data = write_folder(root / "data", classes=3, train=10, val=20)
    for seed in range(3):
        settings = {"data": str(data), "output": root / str(seed), "cache": root / "cache"}
        network = {"checkpoint": "random", "arch": "resnet18-tiny", "image_size": 16, "seed": seed}
        knn.run(knn.Config(**settings, **network, k=(1, 5), device="cpu", workers=1))
    return root


@pytest.fixture
def runs(finished, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(finished, tmp_path / "runs")


def failed(capsys, *arguments, code=2):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr().err


def change(folder, edit):
    record = json.loads((folder / "record.json").read_text())
    edit(record)
    (folder / "record.json").write_text(json.dumps(record))


def test_scores_equal_those_of_the_record_and_have_an_interval(runs, capsys):
    out = printed(capsys, runs / "0")
    assert "knn on data val, 60 test images" in out
    assert out.count("the same") == 2
    found = json.loads(printed(capsys, runs / "0", "--json"))["scores"]
    recorded = read_record(runs / "0")["scores"]
    assert [each["name"] for each in found] == ["1-NN top-1", "5-NN top-1"]
    for each, score in zip(found, recorded, strict=True):
        assert each["value"] == pytest.approx(score["value"])
        # Student's t with 59 degrees of freedom; one more image widens it.
        assert 1.9 * score["stderr"] < (each["high"] - each["low"]) / 2 < 2.5 * score["stderr"]


def test_a_record_with_another_value_is_reported(runs, capsys):
    def edit(record):
        record["scores"][0]["value"] += 0.01

    change(runs / "0", edit)
    assert "1-NN top-1 is" in failed(capsys, runs / "0", code=1)


def test_a_score_without_outcomes_is_reported(runs, capsys):
    save_outcomes(runs / "0", load_outcomes(runs / "0")[:1])
    assert "5-NN top-1 is None here" in failed(capsys, runs / "0", code=1)


def test_two_runs_are_compared(runs, capsys):
    out = printed(capsys, runs / "0", runs / "1")
    assert "60 test images of data val; one seed each" in out
    found = json.loads(printed(capsys, runs / "0", "--against", runs / "1", "--json"))["verdicts"]
    values = [{s["name"]: s["value"] for s in read_record(runs / n)["scores"]} for n in "01"]
    for name in ("1-NN top-1", "5-NN top-1"):
        assert found[name]["difference"] == pytest.approx(values[0][name] - values[1][name])
        assert found[name]["word"] in out
    assert found["1-NN top-1"]["seeds"] == [1, 1]


def test_a_run_is_compared_with_several_seeds(runs, capsys):
    out = printed(capsys, runs / "0", "--against", runs / "1", runs / "2")
    assert "1 and 2 seeds" in out


def test_the_trials_of_a_run_are_its_seeds(runs, capsys):
    (runs / "trials").mkdir()
    for number in (1, 2):
        (runs / str(number)).rename(runs / "trials" / f"trial-{number}")
    content = {"folders": ["trial-1", "trial-2"]}
    (runs / "trials" / "trials.json").write_text(json.dumps(content))
    assert "2 and 1 seeds" in printed(capsys, runs / "trials", runs / "0")
    (runs / "trials" / "trials.json").write_text("{}")
    assert "does not list the folders of trials" in failed(capsys, runs / "0", runs / "trials")


def test_a_better_network_is_called_better(runs, capsys):
    ours, theirs = load_outcomes(runs / "0"), load_outcomes(runs / "1")
    for outcomes, value in ((ours, 1), (theirs, 0)):
        for each in outcomes:
            each.arrays["hits"][:40] = value
    save_outcomes(runs / "0", ours)
    save_outcomes(runs / "1", theirs)
    lines = printed(capsys, runs / "0", runs / "1").splitlines()
    assert [line.split()[-1] for line in lines[-2:]] == ["better", "better"]
    lines = printed(capsys, runs / "1", runs / "0").splitlines()
    assert [line.split()[-1] for line in lines[-2:]] == ["worse", "worse"]


def test_other_protocols_and_other_images_are_not_compared(runs, capsys, tmp_path):
    other = write_folder(tmp_path / "other" / "data", classes=3, train=10, val=21)
    settings = {"data": str(other), "cache": tmp_path / "cache", "device": "cpu", "workers": 1}
    network = {"checkpoint": "random", "arch": "resnet18-tiny", "image_size": 16}
    knn.run(knn.Config(**settings, **network, output=tmp_path / "a", k=(5,)))
    message = failed(capsys, runs / "0", tmp_path / "a")
    assert "5-NN top-1 cannot be compared image by image: the data are data val" in message
    knn.run(knn.Config(**settings, **network, output=tmp_path / "b", k=(7,)))
    message = failed(capsys, runs / "0", tmp_path / "b")
    assert "no score with the same name and rules" in message
    assert "7-NN top-1" in message


def test_runs_without_usable_outcomes_are_errors(runs, capsys):
    (runs / "0" / FILE).unlink()
    assert "of an earlier version" in failed(capsys, runs / "0")
    assert "of an earlier version" in failed(capsys, runs / "1", runs / "0")
    (runs / "1" / FILE).write_bytes(b"PK")
    assert "not a valid file of outcomes" in failed(capsys, runs / "1")
    change(runs / "2", lambda record: record.update(status="interrupted"))
    assert "a run that is interrupted" in failed(capsys, runs / "2")
    (runs / "empty").mkdir()
    assert "has no record.json" in failed(capsys, runs / "empty")


def test_options_of_detectors_are_refused(runs, capsys):
    message = failed(capsys, runs / "0", "--metric", "coco", "--classes")
    assert "--metric, --classes only apply to scoring the predictions of a detector" in message
    assert "is not a folder" in failed(capsys, runs / "0", runs / "nowhere")


def test_it_runs_as_a_script(runs):
    script = ROOT / "tools" / "score.py"
    code, out, message = Program(script, ["0", "1"], cwd=runs).wait()
    assert code == 0, message
    assert "verdict" in out
