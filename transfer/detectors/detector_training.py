"""DetectorTraining: adapts a detector of either engine to the training loop. And its checkpoints."""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from msbreg.checkpoints.layouts.tensors import overview
from msbreg.checkpoints.load import load_exactly
from msbreg.checkpoints.read import read_file
from msbreg.data.training_order import part_of
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.run.job import Job, log
from msbreg.run.synchronized_norm import is_synchronized
from msbreg.train.loop import Loss, Plan, Trainable
from msbreg.train.state import Checkpoint, State, require_record
from transfer.detectors.batch_norm import make_precise
from transfer.detectors.mapper import Sample
from transfer.detectors.solver import Solver

Batch = list[Sample]
KIND = "msbreg-detection"
SCHEMA = 1
ROW_EVERY = 20  # iterations averaged in a row of the curve; the period of Detectron2's writers


def plan_of(config: CfgNode, *, device: torch.device, seed: int) -> Plan:
    """The training loop's plan, from the SOLVER and TEST sections of the config."""
    return Plan(
        steps=config.SOLVER.MAX_ITER,
        row_every=ROW_EVERY,
        save_every=config.SOLVER.CHECKPOINT_PERIOD,
        evaluate_every=config.TEST.EVAL_PERIOD,
        read_every=1 if device.type == "cpu" else ROW_EVERY,
        seed=seed,
    )


class DetectorTraining(Trainable):
    """A detector with its optimizer and learning-rate schedule."""

    advice = "Try a smaller SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS, in a new --output."

    def __init__(
        self,
        model: nn.Module,
        solver: Solver,
        device: torch.device,
        *,
        accumulate: int = 1,
        bf16: bool = False,
        precise_bn: int = 0,
        statistics_batches: Callable[[int], Iterable[Batch]] | None = None,
    ) -> None:
        """
        Args:
            accumulate: number of parts that each process splits its batch into.
            bf16: train under bfloat16 autocast; BatchNorm statistics and evaluation stay in float32.
            precise_bn: number of batches for precise BatchNorm statistics before each evaluation; 0
                turns them off.
            statistics_batches: iteration -> the batches for these statistics.
        """
        self.model, self.solver, self.device = model, solver, device
        self.optimizer = solver.optimizer
        self.parts, self.bf16, self.precise_bn = accumulate, bf16, precise_bn
        self.statistics_batches = statistics_batches
        self.exchanges = has_synchronized_norm(model)

    def learning_rates(self, step: int) -> list[float]:
        return self.solver.rates(step)

    def losses(self, forward: nn.Module, batch: Batch, step: int) -> Iterator[Loss]:
        for part in divide(batch, self.parts):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                losses: dict[str, Tensor] = forward(part)
                total: Any = sum(losses.values())
            if self.parts > 1:
                total = total / self.parts
                losses = {name: value.detach() / self.parts for name, value in losses.items()}
            yield Loss(total, losses)

    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        return {
            "iteration": step,
            **means,
            "total_loss": sum(means.values()),
            "learning_rate": self.learning_rates(step - 1)[0],
        }

    def before_update(self) -> None:
        self.solver.clip()

    def prepare_evaluation(self, step: int) -> None:
        """Recompute precise BatchNorm statistics if enabled, and make them equal in all processes."""
        if self.precise_bn and self.statistics_batches is not None:
            with contextlib.closing(_closing(self.statistics_batches(step))) as batches:
                parts = (part for batch in batches for part in divide(batch, self.parts))
                make_precise(self.model, parts, self.precise_bn * self.parts)
        distributed.share_buffers(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_exactly(self.model, state["model"], "the detector")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(f"the optimizer state is from another detector: {error}") from error


def divide(samples: Batch, parts: int) -> list[Batch]:
    """Split the batch into parts of equal size; raises like ``part_of``."""
    size = part_of(len(samples), parts)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def has_synchronized_norm(model: nn.Module) -> bool:
    """Whether a BatchNorm layer averages over processes: SyncBN or either engine's naiveSyncBN."""
    return is_synchronized(model) or any(
        type(layer).__name__ == "NaiveSyncBatchNorm" for layer in model.modules()
    )


def format_losses(losses: Mapping[str, float]) -> str:
    """Losses as text, such as ``loss 1.53 (cls 0.90, box_reg 0.20, ...)``."""
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.2f}" for name, value in losses.items())
    return f"loss {sum(losses.values()):.2f} ({parts})"


def _closing(batches: Iterable[Batch]) -> Generator[Batch]:
    """Yield the batches. Closing this generator also closes theirs, which ends its worker processes."""
    yield from batches


# ---- Checkpoints


def checkpoint_of(path: Path, about: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of a run.

    Args:
        about: what the checkpoint records about its run: settings, data fingerprints, engine, device type
            and the provenance of the initial weights.
    """
    return Checkpoint(path, lambda step: {"kind": KIND, "about": dict(about), "iteration": step})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of transfer/detection.py; no code in the file is run.

    Raises:
        UserError: the file is missing, truncated, or not such a checkpoint.
    """
    content = read_file(path).content
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path} is not a checkpoint of transfer/detection.py: it contains {overview(content)}.\n"
            f"Expected an entry kind = {KIND!r}."
        )
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has checkpoint schema {content.get('schema')!r}; this version reads {SCHEMA}"
        )
    return content


def resume(
    trainable: DetectorTraining,
    state: State,
    checkpoint: Checkpoint,
    job: Job,
    about: Mapping[str, Any],
) -> None:
    """Continue the run in the job's output folder.

    Raises:
        UserError: the folder has no record of this run, the checkpoint cannot be read, or it was trained
            with other data or another engine.
    """
    path = checkpoint.path
    require_record(path, job.resumed)
    try:
        content = read_checkpoint(path)
    except UserError as error:
        raise UserError(
            f"{error}\nThe run cannot continue from it. Remove the file to start from the beginning."
        ) from error
    before = content["about"]
    for what, then, now in (
        ("data", _without_files(before["data"]), _without_files(about["data"])),
        ("engine", before["engine"], about["engine"]),
    ):
        if then != now:
            raise UserError(
                f"{path} was trained with {what} = {then}; now it is {now}.\n"
                "Restore it to continue, or start a new run in another --output."
            )
    if before["data"] != about["data"]:  # for example because an unreadable file was replaced
        job.warn("the sizes of some image files have changed since the run started")
    if before["device"] != about["device"]:
        job.warn(
            f"the run started on {before['device']} and continues on {about['device']}: random sampling of "
            "proposals and rounding differ, and SyncBN works on cuda only"
        )
    if warning := checkpoint.restore(trainable, state, content):
        job.warn(warning)
    log.info("continuing after iteration %d", state.step)


def _without_files(data: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The description of the data without the fingerprints, which depend on the image files."""
    return {
        which: {name: value for name, value in split.items() if name != "fingerprint"}
        for which, split in data.items()
    }


# ---- Advice when memory runs out: the change with the least effect on the protocol comes first

TESTING_ADVICE = (
    "out of memory while evaluating a single image.\n"
    "Lower INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST, or MODEL.RPN.POST_NMS_TOPK_TEST. This changes the "
    "protocol:\nuse --eval-only with --checkpoint and a new --output."
)
MOVING_ADVICE = (
    "the detector does not fit into the memory of the device.\n"
    "Check with nvidia-smi whether another program uses it, or give another --device."
)


@dataclass(frozen=True)
class MemoryNeeds:
    """What determines the memory for training.

    Attributes:
        images: batch size of one process.
        accumulate: number of parts that the batch is split into.
        bf16: whether training runs under bfloat16 autocast.
    """

    images: int
    accumulate: int
    bf16: bool


def training_advice(config: CfgNode, needs: MemoryNeeds) -> str:
    """Which settings to change if training runs out of memory."""
    solver, parts, images = config.SOLVER, needs.accumulate, needs.images
    more = next((n for n in range(parts + 1, images + 1) if images % n == 0), None)
    lines = [f"out of memory while training on {images // parts} images at a time."]
    if more:
        lines.append(
            f"  --accumulate {more} splits each batch into {more} parts: the same step except for BatchNorm"
        )
    if not needs.bf16:
        lines.append("  --amp bf16 needs about half the memory")
    if images > 1:
        lines.append(
            "  more processes (torchrun) each take a smaller share of SOLVER.IMS_PER_BATCH"
        )
        lines.append(
            f"  SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH // 2} SOLVER.BASE_LR {solver.BASE_LR / 2:g} "
            "halves the batch by the linear scaling rule; double MAX_ITER and STEPS"
        )
    lines.append("  smaller INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN change the protocol")
    lines.append(
        "A run with changed settings needs a new --output; the same command continues this run."
    )
    return "\n".join(lines)
