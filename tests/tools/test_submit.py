"""Options are checked before a job is queued; a preempted local job continues (if submitit is installed)."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from msbreg.run.errors import UserError
from msbreg.run.options import check_script, parse
from msbreg.run.record import read_record
from pretrain.recipe import Config
from tests.pretrain.test_run import arguments
from tests.processes import Program
from tools.submit import read_options

ROOT = Path(__file__).resolve().parents[2]
TOOL, PRETRAIN = ROOT / "tools" / "submit.py", ROOT / "pretrain" / "run.py"
TEMPLATE = ROOT / "docs" / "examples" / "pretrain.sbatch"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "2"], "no script was given"),
        (["--", "pretrain/nothing.py"], "nothing.py does not exist in"),
        (["--nodes", "0", "--", str(PRETRAIN)], "--nodes is 0; expected at least 1"),
        (["--hours", "0.05", "--", str(PRETRAIN)], "expected more than twice --grace"),
    ],
)
def test_invalid_options_are_rejected(words, message):
    with pytest.raises(UserError, match=message):
        read_options(words)


def test_the_options_of_the_script_are_checked_as_by_the_script(capsys):
    with pytest.raises(SystemExit) as ended:
        read_options(["--local", "--", str(PRETRAIN), "--epochz", "2"])
    assert ended.value.code == 2
    assert "--epochz is unknown; did you mean --epochs?" in capsys.readouterr().err


def test_checking_a_script_does_not_run_it_and_keeps_the_command_line(tmp_path):
    before = list(sys.argv)
    assert check_script(PRETRAIN, ["--output", str(tmp_path / "run")])
    assert sys.argv == before
    assert not (tmp_path / "run").exists()


def test_check_needs_neither_submitit_nor_slurm(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert read_options(["--check", "--", str(PRETRAIN), "--output", "runs/never"]).check


def test_a_script_with_options_of_its_own_is_not_started_to_check_them(tmp_path):
    script = tmp_path / "own.py"
    script.write_text("raise SystemExit('it ran')")
    assert not check_script(script, [])


def test_the_extra_to_install_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[slurm\]'"):
        read_options(["--local", "--", str(PRETRAIN), "--output", "runs/never"])


def test_a_preempted_job_continues_on_its_own(make_folder, tmp_path):
    pytest.importorskip("submitit", reason="requires the extra slurm")
    data, output = make_folder(train=8, val=4), tmp_path / "run"
    long = ["--epochs", "6", "--save-seconds", "0.001", "--diagnostics.every", "6"]
    own = ["--local", "--gpus-per-node", "0", "--processes-per-node", "2", "--logs", "logs", "--"]
    words = [*own, PRETRAIN, *arguments(data, output), *long, "--sync-bn", "false"]
    job = Program(TOOL, words, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (output / "checkpoint.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    # The job's folder has the name of the process that manages the tasks.
    (manager,) = (p.name for p in (tmp_path / "logs").iterdir() if p.name.isdigit())
    tasks = Path(f"/proc/{manager}/task/{manager}/children").read_text().split()
    assert len(tasks) == 2
    for task in tasks:
        os.kill(int(task), signal.SIGUSR2)
    code, printed, message = job.wait()
    assert code == 0, message
    assert printed.endswith("done\n")
    record = read_record(output)
    assert record is not None
    assert (record["status"], record["processes"]) == ("done", 2)
    assert record["resumed_from"] == "interrupted"


def test_the_failure_of_a_local_job_is_reported_with_its_log(tmp_path):
    pytest.importorskip("submitit", reason="requires the extra slurm")
    script = tmp_path / "own.py"
    script.write_text("raise SystemExit(3)")
    words = ["--local", "--gpus-per-node", "0", "--logs", "logs", "--", script]
    code, _, message = Program(TOOL, words, cwd=tmp_path).wait()
    assert code == 1
    log = Path(message.removeprefix("error: the job failed; its log: ").strip())
    assert f"{script} ended with exit code 3" in log.read_text()


# ---- docs/examples/pretrain.sbatch, with programs in place of those of Slurm and of torchrun

TORCHRUN = """
record() { mkdir -p runs/r50; echo "  \\"status\\": \\"$1\\"," > runs/r50/record.json; }
trap 'record interrupted; exit 1' TERM
record running
[ "$END" = fail ] && { record failed; exit 1; }
[ "$END" = done ] && { record done; exit 0; }
touch started
while true; do sleep 0.05; done
"""
PROGRAMS = {
    "python": "exit 0",
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "torchrun": TORCHRUN,
    "scontrol": '[ "$1" = show ] && echo localhost || echo "$@" >> requeued',
}


def start_template(folder: Path, end: str) -> subprocess.Popen:
    programs, activate = folder / "programs", folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    programs.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    slurm = {"JOB_ID": 71, "JOB_NODELIST": "localhost", "NNODES": 1, "GPUS_ON_NODE": 1}
    slurm |= {"CPUS_PER_TASK": 1}
    environment = {f"SLURM_{name}": str(value) for name, value in slurm.items()}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "END": end}
    return subprocess.Popen(["bash", str(TEMPLATE)], cwd=folder, env=environment)


def test_the_template_queues_an_interrupted_run_again(tmp_path):
    job = start_template(tmp_path, "stop")
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 0
    assert (tmp_path / "requeued").read_text() == "requeue 71\n"


@pytest.mark.parametrize(("end", "code"), [("done", 0), ("fail", 1)])
def test_the_template_does_not_queue_a_run_again_that_ended(tmp_path, end, code):
    assert start_template(tmp_path, end).wait(60) == code
    assert not (tmp_path / "requeued").exists()


def test_the_template_gives_the_script_options_that_it_knows():
    (block,) = re.findall(r"^COMMAND=\(\n(.*?)^\)", TEMPLATE.read_text(), re.MULTILINE | re.DOTALL)
    script, *words = shlex.split(block, comments=True)
    assert script == "pretrain/run.py"
    assert parse(Config, [str(ROOT / w) if w.startswith("configs/") else w for w in words])
