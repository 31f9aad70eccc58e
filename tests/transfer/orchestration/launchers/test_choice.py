"""The options choose the launcher, and its processes read the same settings."""

from pathlib import Path

import pytest

from msbreg.run.options import parse
from transfer.orchestration.launchers.choice import launcher_of
from transfer.orchestration.launchers.launcher import save_command
from transfer.orchestration.launchers.local_launcher import InThisProcess, SideBySide
from transfer.orchestration.launchers.slurm_job import SlurmSettings
from transfer.orchestration.launchers.torchrun_launcher import Torchrun
from transfer.orchestration.suite_config import Config

SCRIPT = Path("transfer/suite.py")


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
