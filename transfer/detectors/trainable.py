"""DetectorTraining: a detector of either engine as the training loop sees it, and its checkpoints."""

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
from msbreg.run.errors import UserError
from msbreg.run.job import Job, log
from msbreg.train.loop import Loss, Plan, Trainable
from msbreg.train.state import Checkpoint, State, require_record
from transfer.detectors.batch_norm import make_precise, share_statistics
from transfer.detectors.mapper import Sample
from transfer.detectors.solver import Solver

Batch = list[Sample]
KIND = "msbreg-detection"
SCHEMA = 1
ROW_EVERY = 20  # iterations that a row of the curve averages over, as Detectron2's writers


def plan_of(config: CfgNode, *, device: torch.device, seed: int) -> Plan:
    """The loop's numbers, from SOLVER and TEST."""
    return Plan(
        steps=config.SOLVER.MAX_ITER,
        row_every=ROW_EVERY,
        save_every=config.SOLVER.CHECKPOINT_PERIOD,
        evaluate_every=config.TEST.EVAL_PERIOD,
        read_every=1 if device.type == "cpu" else ROW_EVERY,
        seed=seed,
    )


class DetectorTraining(Trainable):
    """A detector, and how its engine changes the weights."""

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
        """Prepare the training.

        Args:
            accumulate: parts in which a process passes its batch.
            bf16: autocast to bfloat16 while training; statistics and evaluation stay in float32.
            precise_bn: batches for precise BatchNorm statistics before each evaluation; 0 is off.
            statistics_batches: iteration -> the batches for them.
        """
        self.model, self.solver, self.device = model, solver, device
        self.optimizer = solver.optimizer
        self.parts, self.bf16, self.precise_bn = accumulate, bf16, precise_bn
        self.statistics_batches = statistics_batches
        self.exchanges = exchanges(model)

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
        """Make BatchNorm's statistics precise, where that is asked for, and equal in all processes."""
        if self.precise_bn and self.statistics_batches is not None:
            with contextlib.closing(_each(self.statistics_batches(step))) as batches:
                parts = (part for batch in batches for part in divide(batch, self.parts))
                make_precise(self.model, parts, self.precise_bn * self.parts)
        share_statistics(self.model)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        load_exactly(self.model, state["model"], "the detector")
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(f"the optimizer belongs to another detector: {error}") from error


def part_of(images: int, parts: int) -> int:
    """Images in each of the parts of a process's batch.

    Raises:
        UserError: the number of images is not a multiple of the number of parts.
    """
    if images % parts:
        divisors = [str(n) for n in range(1, images + 1) if images % n == 0]
        raise UserError(
            f"--accumulate {parts} cannot divide a batch of {images} images in each process; "
            f"expected a divisor: {', '.join(divisors)}"
        )
    return images // parts


def divide(samples: Batch, parts: int) -> list[Batch]:
    """The batch in parts of equal size; raises as ``part_of``."""
    size = part_of(len(samples), parts)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def exchanges(model: nn.Module) -> bool:
    """Whether its BatchNorm layers average over processes: SyncBN, or either engine's naiveSyncBN."""
    return any(
        isinstance(layer, nn.SyncBatchNorm) or type(layer).__name__ == "NaiveSyncBatchNorm"
        for layer in model.modules()
    )


def losses_in_words(losses: Mapping[str, float]) -> str:
    """``loss 1.53 (cls 0.90, box_reg 0.20, ...)``."""
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.2f}" for name, value in losses.items())
    return f"loss {sum(losses.values()):.2f} ({parts})"


def _each(batches: Iterable[Batch]) -> Generator[Batch]:
    """The batches; closed, it closes a generator of them, whose worker processes then end."""
    yield from batches


# ---- Checkpoints


def checkpoint_of(path: Path, about: Mapping[str, Any]) -> Checkpoint:
    """The checkpoint of a run.

    Args:
        about: settings, fingerprints of the data, engine, device type, provenance.
    """
    return Checkpoint(path, lambda step: {"kind": KIND, "about": dict(about), "iteration": step})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint of a detector in training; no code in the file is run.

    Raises:
        UserError: no such file, truncated, or not such a checkpoint.
    """
    content = read_file(path).content
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path} is not a checkpoint of transfer/detection.py: it holds {overview(content)}.\n"
            f"Expected the entry kind = {KIND!r}."
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
    running: Job,
    about: Mapping[str, Any],
) -> None:
    """Continue the run in the job's folder.

    Raises:
        UserError: the checkpoint has no record beside it, or belongs to other data or another engine.
    """
    path = checkpoint.path
    require_record(path, running.resumed)
    try:
        content = read_checkpoint(path)
    except UserError as error:
        raise UserError(
            f"{error}\nThis run was to continue from it; without the file, the same command starts anew."
        ) from error
    before = content["about"]
    for what, then, now in (
        ("data", _without_files(before["data"]), _without_files(about["data"])),
        ("engine", before["engine"], about["engine"]),
    ):
        if then != now:
            raise UserError(
                f"{path} was trained with {what} = {then}, here it is {now}.\n"
                "Put it back to continue, or start anew in another --output."
            )
    if before["data"] != about["data"]:  # as it is when an unreadable one was replaced
        running.warn("image files have other sizes than when the run began")
    if before["device"] != about["device"]:
        running.warn(
            f"continued on {about['device']}, started on {before['device']}: proposals are sampled with "
            "other random numbers, sums are rounded differently, and BatchNorm over several processes "
            "is synchronized on cuda only"
        )
    if warning := checkpoint.restore(trainable, state, content):
        running.warn(warning)
    log.info("continuing after iteration %d", state.step)


def _without_files(data: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The description of the data without what depends on image files."""
    return {
        which: {name: value for name, value in split.items() if name != "fingerprint"}
        for which, split in data.items()
    }


# ---- Memory: what to lower, the change that alters least first

TESTING = (
    "out of memory while evaluating an image (they pass one by one).\n"
    "Smaller INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST or MODEL.RPN.POST_NMS_TOPK_TEST need less, and make "
    "another protocol: give them\nwith --eval-only, --checkpoint and a new --output."
)
MOVING = (
    "the detector alone does not fit into the memory of the device.\n"
    "Check with nvidia-smi whether another program uses it, or give another --device."
)


@dataclass(frozen=True)
class MemoryNeeds:
    """What decides how much memory training takes: images of a process's batch, its parts, the type."""

    images: int
    accumulate: int
    bf16: bool


def training_advice(config: CfgNode, needs: MemoryNeeds) -> str:
    """What to lower in training."""
    solver, parts, images = config.SOLVER, needs.accumulate, needs.images
    more = next((n for n in range(parts + 1, images + 1) if images % n == 0), None)
    lines = [f"out of memory while training on {images // parts} images at a time."]
    if more:
        lines.append(
            f"  --accumulate {more} passes a batch in {more} parts: the same step but for BatchNorm"
        )
    if not needs.bf16:
        lines.append("  --amp bf16 needs about half")
    if images > 1:
        lines.append("  more processes (torchrun) share SOLVER.IMS_PER_BATCH")
        lines.append(
            f"  SOLVER.IMS_PER_BATCH {solver.IMS_PER_BATCH // 2} SOLVER.BASE_LR {solver.BASE_LR / 2:g} "
            "is the linear rule's smaller batch; MAX_ITER and STEPS double"
        )
    lines.append("  smaller INPUT.MIN_SIZE_TRAIN and MAX_SIZE_TRAIN make another protocol")
    lines.append("Other settings need a new --output; the same command continues this run.")
    return "\n".join(lines)
