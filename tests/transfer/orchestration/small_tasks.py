"""Tasks whose processes are a small program in place of transfer/suite.py, which says what it does."""

from pathlib import Path

from msbreg.backbones.spec import BackboneSpec
from msbreg.run.config import Card
from transfer.knn import Config
from transfer.orchestration.evaluated_networks import EvaluatedNetwork
from transfer.orchestration.launchers.launcher import SuiteCommand
from transfer.orchestration.task import Task
from transfer.orchestration.task_graph import Plan

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path

card, task = (word.partition("=")[2] for word in sys.argv[1:3])
folder = Path(card).parent
rank = os.environ.get("RANK", "")
name = task.replace("/", "-") + (f"-rank{rank}" if rank else "")
gpus, threads = (os.environ.get(n) for n in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"))
others = sorted(p.stem for p in folder.glob("*.running"))
(folder / f"{name}.running").touch()
facts = {"gpus": gpus, "threads": threads, "rank": rank, "done": sorted(
    p.stem for p in folder.glob("*.done"))}
(folder / f"{name}.json").write_text(json.dumps(facts))

def save(number, frame):
    (folder / f"{name}.saved").touch()
    sys.exit(75)

signal.signal(signal.SIGTERM, save)
if "forever" in task:
    (folder / f"{name}.ready").touch()
    while True:
        time.sleep(0.02)
if "meets" in task:  # until the other one runs as well
    deadline = time.monotonic() + 60
    while len(list(folder.glob("*meets*.running"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(list(folder.glob("*meets*.running"))) == 2
if "fails" in task:
    print("error: the disk is full", file=sys.stderr)
    sys.exit(1)
if "wrong" in task:
    print("error: no such data", file=sys.stderr)
    sys.exit(2)
if "breaks" in task:
    import no_such_module
(folder / f"{name}.done").touch()
"""


def plan(folder: Path, *tasks: tuple[str, ...]) -> Plan:
    """The plan of one network, ``a``: (name of a task, names of those that it needs) for each task."""
    made = [
        Task(
            "a",
            name,
            "knn",
            Config(output=folder / "a" / name),
            Card(),
            tuple(f"a/{need}" for need in needs),
        )
        for name, *needs in tasks
    ]
    network = EvaluatedNetwork("a", "checkpoint.pth", 0, BackboneSpec("resnet18-narrow"))
    return Plan(tuple(made), (network,), (), ())


def command(folder: Path) -> SuiteCommand:
    """The command of the small program; it writes into ``folder/jobs``."""
    script = folder / "program.py"
    script.write_text(PROGRAM)
    (folder / "jobs").mkdir()
    return SuiteCommand(script, folder / "jobs" / "suite.yaml")


def nothing() -> None:
    """After each task."""
