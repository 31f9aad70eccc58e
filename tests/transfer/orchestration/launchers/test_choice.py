"""The options choose the launcher, and its processes read the same settings."""

from pathlib import Path

import pytest

from msbreg.run.errors import UserError
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.processes import Program
from tests.transfer.orchestration.tiny_suites import tiny_config
from transfer import suite
from transfer.orchestration.launchers.choice import launcher_of
from transfer.orchestration.launchers.launcher import save_command
from transfer.orchestration.launchers.local_launcher import InThisProcess, SideBySide
from transfer.orchestration.launchers.slurm_job import SlurmSettings
from transfer.orchestration.launchers.torchrun_launcher import Torchrun
from transfer.orchestration.suite_config import Config

SCRIPT = Path(suite.__file__)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({}, InThisProcess),
        ({"jobs": 1}, InThisProcess),
        ({"jobs": 3}, SideBySide),
        ({"launcher": "torchrun", "processes_per_task": 2}, Torchrun),
    ],
)
def test_the_options_choose_the_launcher(tmp_path, given, kind):
    launcher = launcher_of(Config(output=tmp_path, device="cpu", **given), SCRIPT)
    assert isinstance(launcher, kind)
    if not isinstance(launcher, InThisProcess):
        assert len(launcher.places) == given.get("jobs", 1)


def test_a_process_of_a_task_reads_the_settings_of_the_suite(tmp_path):
    config = Config(
        checkpoints=(Path("a b.pth"), Path("c.pth")),
        data=("imagenet:/data/1e5", "pets:null"),
        output=tmp_path / "runs",
        only=("knn", "linear"),
        launcher="slurm",
        slurm=SlurmSettings(partition="long", hours=2.5),
    )
    _, card, _ = (command := save_command(config, SCRIPT, config.output)).words("a/knn")
    read, _ = parse(Config, [card])
    assert read == config
    assert command.words("a/knn")[-1] == "--task=a/knn"


def test_a_task_runs_in_a_process_of_its_own_with_the_settings_of_the_suite(tmp_path, make_folder):
    config = tiny_config(tmp_path, make_folder(train=20, val=4))
    command = save_command(config, SCRIPT, config.output)
    script, *words = command.words("pretrained/knn")
    cache = {"MSBREG_CACHE": str(tmp_path / "cache")}
    code, _, err = Program(Path(script), words, environment=cache).wait()
    assert code == 0, err
    assert "20-NN top-1" in err
    record = read_record(config.output / "pretrained" / "knn")
    assert record["status"] == "done"
    assert record["config"]["workers"] == 1
    assert "--task=pretrained/knn" in record["command"]


def test_a_task_that_the_suite_does_not_have_is_rejected(tmp_path, make_folder):
    config = tiny_config(tmp_path, make_folder(train=4, val=2), task="pretrained/svm")
    with pytest.raises(UserError, match="expected report or one of: pretrained/knn"):
        suite.run(config)
