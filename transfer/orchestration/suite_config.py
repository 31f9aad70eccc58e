"""Settings of transfer/suite.py. Imports no PyTorch: see msbreg/run/options.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from msbreg.run.errors import UserError, did_you_mean
from msbreg.run.inputs import check_checkpoint, check_output
from transfer.orchestration.launchers.launch_options import LauncherName, check_launch
from transfer.orchestration.launchers.slurm_job import SlurmSettings, check_installed
from transfer.orchestration.protocols import GATE, PROTOCOLS, Protocol, known_words

DEFAULT_CHECKPOINT = Path("runs/pretrain/checkpoint.pth")
DIGITS = "digits"
KEPT = "epochs/epoch-*.pth"
"""The backbones that pretrain/run.py --keep-every writes in its output folder."""
SMOKE_OUTPUT = Path("runs/smoke")


@dataclass(frozen=True)
class Config:
    """Settings of a suite: what to evaluate, and where to write the runs and the report."""

    script: ClassVar[str] = "transfer/suite.py"

    checkpoint: Path | None = None
    """The checkpoint to evaluate (null: runs/pretrain/checkpoint.pth). Its untrained twins have the same
    architecture and input."""
    checkpoints: tuple[Path, ...] = ()
    """Several checkpoints instead, each with a folder of its own. Those of one architecture and input share
    their twins."""
    data: tuple[str, ...] = ()
    """A folder that contains data sets by name, one data set (a folder, or LAYOUT:FOLDER), several of these,
    or digits (empty: the embedded digits)."""
    output: Path = Path("runs/suite")
    """Folder for the runs (NETWORK/PROTOCOL/) and report/; with ``--smoke``, by default runs/smoke."""
    only: tuple[str, ...] = ()
    """Run these protocols only: names such as voc_c4, or scripts such as linear for all of their protocols
    (empty: all)."""
    skip: tuple[str, ...] = ()
    """Protocols or scripts not to run."""
    plan: bool = False
    """Show what would run, what is done and which data are missing; run nothing."""
    jobs: int | None = None
    """Number of tasks that run at the same time, each in a process of its own (null: one per GPU if there are
    several; otherwise one after another in this process)."""
    launcher: LauncherName = "local"
    """local; torchrun: each task in a group of processes; slurm: each task as a job of the cluster."""
    processes_per_task: int | None = None
    """torchrun: processes of each task, one per GPU (null: the number of GPUs, at least 1)."""
    slurm: SlurmSettings = field(default_factory=SlurmSettings)
    """slurm: what each job gets."""
    task: str | None = None
    """Run only this task, NETWORK/PROTOCOL, or only write the report: report. Launchers use it."""
    watch: Path | None = None
    """Output folder of pretrain/run.py --keep-every N: evaluate each backbone that it keeps, also while it
    trains, with knn and linear unless --only says otherwise."""
    once: bool = False
    """With --watch: evaluate what is there, and do not wait for more."""
    smoke: bool = False
    """Try everything in a few minutes: all protocols on the embedded digits with tiny settings, on an
    untrained network if no checkpoint is given. The scores mean nothing."""
    anyway: bool = False
    """Continue even if the first look says that a checkpoint has not learned anything."""
    cards: str | None = None
    """Use the cards configs/CARDS_SCRIPT.yaml, such as photos, where they exist (null: the published card of
    a data set, small cards for the digits, defaults for your own data)."""
    detectors: tuple[str, ...] = ()
    """More detectors to fine-tune: cards configs/NAME.yaml, whose data are looked for in the folder of
    data."""
    random_seeds: int = 3
    """Number of untrained twins, with seeds 0, 1, ...; their spread shows the variation between seeds."""
    random_fine_tuned: int = 1
    """Number of untrained twins for detection, segmentation and fine-tuned classifiers; each takes as long as
    the checkpoint does."""
    encoder: str | None = None
    """Which network of a checkpoint that has several (null: the one that its family evaluates)."""
    family: str | None = None
    """Layout of the checkpoint, if it matches several (tools/inspect_checkpoint.py --list)."""
    trust_pickle: bool = False
    """Read a checkpoint that contains more than tensors; its code is never run."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int | None = None
    """Threads that decode images, and processes that fit classifiers (null: 2, and for detectors the
    card's DATALOADER.NUM_WORKERS)."""

    def __post_init__(self) -> None:
        if self.checkpoint is not None and self.checkpoints:
            raise UserError(
                f"checkpoint is {self.checkpoint} and checkpoints {list(map(str, self.checkpoints))}; "
                "expected one of the two options"
            )
        if len(set(self.checkpoints)) < len(self.checkpoints):
            raise UserError(
                f"checkpoints is {list(map(str, self.checkpoints))}; expected different files"
            )
        if min(self.random_seeds, self.random_fine_tuned) < 0:
            raise UserError(
                f"random_seeds is {self.random_seeds} and random_fine_tuned {self.random_fine_tuned}; "
                "expected 0 or more"
            )
        if self.smoke and (self.data not in ((), (DIGITS,)) or self.detectors or self.cards):
            raise UserError(
                "smoke uses the embedded digits and settings of its own; omit --data, --cards and "
                "--detectors"
            )
        if len(self.data) > 1 and DIGITS in self.data:
            raise UserError(
                f"data is {list(self.data)}; expected digits alone, or data sets without it"
            )
        check_launch(self)
        for option in ("only", "skip"):
            _check_words(option, getattr(self, option))
        if not self.selected():
            raise UserError(f"skip is {list(self.skip)}, which leaves no protocol; expected fewer")

    def check_inputs(self) -> None:
        """Check the paths, the data, the cards, and that jobs can be submitted if they are asked for.

        Raises:
            UserError: one of them cannot be used.
        """
        from transfer.orchestration.data_assignment import assign  # imports OpenCV

        if self.watch is not None and not self.watch.expanduser().is_dir():
            raise UserError(
                f"watch is {self.watch}, which is not a folder; expected the output folder of "
                "pretrain/run.py --keep-every N"
            )
        assign(self)
        for checkpoint in self.all_checkpoints:
            check_checkpoint(str(checkpoint))
        check_output(self.folder)
        if self.launcher == "slurm" and self.task is None and not self.plan:
            check_installed(local=False)

    @property
    def all_checkpoints(self) -> tuple[Path, ...]:
        """The checkpoints to evaluate, of a watched run those that there are; none if the suite makes one
        itself, for ``--smoke``."""
        if self.watch is not None:
            return tuple(sorted(self.watch.expanduser().glob(KEPT)))
        if self.checkpoints:
            return self.checkpoints
        if self.checkpoint is None and self.smoke:
            return ()
        return (self.checkpoint or DEFAULT_CHECKPOINT,)

    @property
    def folder(self) -> Path:
        """The output folder; by default, a smoke test has another one."""
        own = self.smoke and self.output == Config.output
        return SMOKE_OUTPUT if own else self.output

    @property
    def on_digits(self) -> bool:
        """Whether the data are the embedded digits."""
        return self.data in ((), (DIGITS,))

    def selected(self) -> tuple[Protocol, ...]:
        """The protocols that the options select, the gate, and those that they need, in the table's order."""
        skipped = {p.name for p in PROTOCOLS if any(p.called(word) for word in self.skip)}
        chosen = {
            p.name
            for p in PROTOCOLS
            if (any(p.called(word) for word in self.only) or not self.only)
            and not skipped & {p.name, *p.needs}
            and (not p.on_request or p.name in self.only)
        }
        if not chosen:
            return ()
        needed = {name for p in PROTOCOLS if p.name in chosen for name in p.needs}
        needed |= {GATE} - set(self.skip)
        return tuple(p for p in PROTOCOLS if p.name in chosen | needed)


def _check_words(option: str, words: tuple[str, ...]) -> None:
    known = list(known_words())
    if unknown := [word for word in words if word not in known]:
        hint = did_you_mean(unknown[0], known)
        raise UserError(
            f"{option}: {unknown[0]} is not a protocol{hint or '.'}\nExpected some of: {', '.join(known)}"
        )
