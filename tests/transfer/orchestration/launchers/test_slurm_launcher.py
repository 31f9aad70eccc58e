"""The jobs of a suite, with a small scheduler in place of Slurm (if submitit is installed)."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from msbreg.run.errors import UserError
from tests.transfer.orchestration.small_tasks import command, nothing, plan
from transfer.orchestration.launchers.slurm_job import Dependency, SlurmSettings, check_installed
from transfer.orchestration.launchers.slurm_launcher import Slurm

# Queues a job and runs it in the background, when those that it depends on have ended.
SBATCH = """
id=$(($(ls "$QUEUE" | grep -c '[.]job$') + 1))
cp "$1" "$QUEUE/$id.job"
(
    after=$(sed -n 's/^#SBATCH --dependency=//p' "$QUEUE/$id.job")
    for other in $(echo "${after#*:}" | tr : ' '); do
        while [ ! -s "$QUEUE/$other.code" ]; do sleep 0.02; done
        if [ "${after%%:*}" = afterok ] && [ "$(cat "$QUEUE/$other.code")" != 0 ]; then
            echo canceled > "$QUEUE/$id.code"
            exit
        fi
    done
    export SLURM_JOB_ID=$id SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1 SLURM_NODEID=0 SLURM_PROCID=0
    export SLURM_LOCALID=0 SLURM_JOB_NODELIST=localhost SLURM_CPUS_PER_TASK=1
    bash "$QUEUE/$id.job" > "$QUEUE/$id.log" 2>&1
    echo $? > "$QUEUE/$id.code.new"
    mv "$QUEUE/$id.code.new" "$QUEUE/$id.code"
) > /dev/null 2>&1 &
echo "Submitted batch job $id"
"""
SRUN = """
words=("$@")
while [ "${words[0]#-}" != "${words[0]}" ]; do
    case ${words[0]} in --output | --error) words=("${words[@]:2}") ;; *) words=("${words[@]:1}") ;; esac
done
exec "${words[@]}"
"""
GIVEN = SlurmSettings(gpus_per_node=0, cpus_per_process=2, partition="long", hours=3.0)


@pytest.fixture
def queue(tmp_path, monkeypatch) -> Path:
    """The folder of the scheduler: NUMBER.job, and NUMBER.code when it has ended."""
    pytest.importorskip("submitit", reason="requires the extra slurm")
    programs, folder = tmp_path / "programs", tmp_path / "queue"
    programs.mkdir()
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "squeue": "", "scontrol": ""}.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("QUEUE", str(folder))
    return folder


def ends(queue: Path, count: int) -> list[str]:
    """The exit codes of all jobs, when they have ended."""
    files = [queue / f"{number}.code" for number in range(1, count + 1)]
    deadline = time.monotonic() + 120
    while not all(f.exists() and f.read_text() for f in files) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [file.read_text().strip() for file in files]


def test_each_task_is_a_job_that_waits_for_those_it_needs(tmp_path, queue):
    tasks = plan(tmp_path, ("probe",), ("scores", "probe"), ("knn",))
    launcher = Slurm(command(tmp_path), GIVEN)
    progress = launcher.launch(tasks, tmp_path, anyway=False, after_each=nothing)
    assert progress.ends == dict.fromkeys(("a/probe", "a/scores", "a/knn"), "queued")
    assert ends(queue, 4) == ["0"] * 4
    jobs = [(queue / f"{number}.job").read_text() for number in range(1, 5)]
    names = [re.search("^#SBATCH --job-name=(.*)$", job, re.MULTILINE)[1] for job in jobs]
    assert names == ["a/probe", "a/scores", "a/knn", "report"]
    assert "--dependency" not in jobs[0] + jobs[2]
    assert "#SBATCH --dependency=afterok:1\n" in jobs[1]
    assert "#SBATCH --kill-on-invalid-dep=yes" in jobs[1]
    assert "#SBATCH --dependency=afterany:1:2:3\n" in jobs[3]
    for line in ("--partition=long", "--time=180", "--cpus-per-task=2"):
        assert f"#SBATCH {line}\n" in jobs[0]
    facts = json.loads((tmp_path / "jobs" / "a-scores-rank0.json").read_text())
    assert "a-probe-rank0" in facts["done"]
    report = json.loads((tmp_path / "jobs" / "report-rank0.json").read_text())
    assert report["done"] == ["a-knn-rank0", "a-probe-rank0", "a-scores-rank0"]


def test_a_failed_job_cancels_those_that_need_it_and_the_report_is_written(tmp_path, queue):
    tasks = plan(tmp_path, ("fails",), ("after", "fails"), ("knn",))
    launcher = Slurm(command(tmp_path), GIVEN)
    launcher.launch(tasks, tmp_path, anyway=False, after_each=nothing)
    failed, canceled, knn, report = ends(queue, 4)
    assert failed != "0"
    assert (canceled, knn, report) == ("canceled", "0", "0")


def test_without_jobs_to_wait_for_there_is_no_dependency():
    assert Dependency([]).parameters() == {}


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="submitit is not installed|sbatch not found"):
        check_installed(local=False)
