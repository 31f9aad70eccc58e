"""The phases of a linear evaluation, each resumed from one checkpoint file after an interruption."""

from typing import Any

from torch import Tensor

from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from msbreg.train.loop import Plan, train
from msbreg.train.state import Checkpoint, State, unfinished_run
from transfer.frozen.head_training import HeadTraining
from transfer.frozen.heads import Heads

CHECKPOINT = "heads.pth"
KIND = "msbreg-linear"
SAVE_SECONDS = 60.0

# In the order of a run's checkpoints.
CHOOSING, FITTING, STREAMING = "choosing", "fitting", "streaming"


def train_phase(
    job: Job, training: HeadTraining, phase: str, about: dict[str, Any]
) -> tuple[Heads, Tensor]:
    """Train the heads of one phase; continues a run that was interrupted in it."""
    state = State()
    header = {"kind": KIND, "phase": phase, "choice": about}
    checkpoint = Checkpoint(job.output / CHECKPOINT, lambda step: header)
    before = unfinished(job)
    if before.get("phase") == phase:
        if warning := checkpoint.restore(training, state, before):
            job.warn(warning)
        log.info("continuing %s from step %d of %d", phase, state.step, training.steps)
    plan = Plan(
        steps=training.steps,
        row_every=training.epoch,
        save_seconds=SAVE_SECONDS,
        read_every=1 if job.device.type == "cpu" else min(20, training.epoch),
    )
    label = f"{phase} ({len(training.model.settings)} heads)"
    job.stop.watched = True  # from here on: save first, then stop
    with Progress(label, training.steps, first=state.step, unit="steps") as progress:
        train(
            training,
            training.batches(state.step),
            plan,
            state,
            checkpoint,
            job=job,
            progress=progress,
        )
    job.stop.watched = False
    return training.result()


def unfinished(job: Job) -> dict[str, Any]:
    """The checkpoint of an interrupted run with the same settings; empty if there is none."""
    # Without an interruption, the file is that of an earlier phase of this run.
    return unfinished_run(job.output / CHECKPOINT, KIND, job) if job.resumed else {}
