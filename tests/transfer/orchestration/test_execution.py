"""A suite that is killed at any moment and started again ends with the records of one that was not."""

import json
import signal
import time
from pathlib import Path

import pytest

from msbreg.run.record import SET_ASIDE
from tests.processes import Program
from tests.transfer.orchestration.tiny_suites import save_untrained

SUITE = Path(__file__).resolve().parents[3] / "transfer" / "suite.py"
KEPT = ("status", "digest", "config", "inputs", "network", "data", "scores", "results", "selection")


def suite_of(folder: Path, data: Path, output: Path) -> Program:
    words = [f"--checkpoint={folder / 'checkpoint.pth'}", f"--data={data}", f"--output={output}"]
    words += ["--only=knn,linear", "--skip=gate", "--random-seeds=1", "--device=cpu", "--workers=1"]
    return Program(SUITE, words, environment={"MSBREG_CACHE": str(folder / output.name / "cache")})


def records(output: Path) -> dict[str, dict]:
    """What must not depend on whether a suite was killed, of each run."""
    found = {}
    for file in sorted(output.glob("*/*/record.json")):
        content = json.loads(file.read_text().replace(str(output), "OUTPUT"))
        found[str(file.parent.relative_to(output))] = {name: content.get(name) for name in KEPT}
    return found


@pytest.fixture
def data(tmp_path, make_folder):
    save_untrained(tmp_path / "checkpoint.pth")
    return make_folder(train=60, val=8)


def test_a_killed_suite_continues_and_ends_with_the_same_records(tmp_path, data):
    """Killed as soon as a file appears: in the middle of a run, and at the start of another."""
    whole = suite_of(tmp_path, data, tmp_path / "whole")
    code, _, err = whole.wait()
    assert code == 0, err
    output = tmp_path / "killed"
    for file in ("pretrained/linear/log.txt", "random-0/knn/record.json"):
        program = suite_of(tmp_path, data, output)
        end = time.monotonic() + 60
        while not (output / file).exists() and time.monotonic() < end:
            time.sleep(0.002)
        assert (output / file).exists(), file
        program.send_signal(signal.SIGKILL)
        assert program.wait()[0] == -signal.SIGKILL
    code, out, err = suite_of(tmp_path, data, output).wait()
    assert code == 0, err
    assert "report: " in out
    assert records(output) == records(tmp_path / "whole")
    assert len(records(output)) == 4
    assert not (output / SET_ASIDE).exists()
    leftovers = [p.name for p in output.rglob("*.msbreg-tmp")]
    assert leftovers == []
