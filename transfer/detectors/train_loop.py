"""The training loop of both engines: batches in, losses checked, steps of SGD, and when to look.

Order within an iteration as in Detectron2's DefaultTrainer (engine/defaults.py, build_hooks): step, precise
BatchNorm statistics, checkpoint, evaluation. What draws random numbers between steps leaves the
generators as they were, so that how often one looks does not change what is trained.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from msbreg.run import distributed
from msbreg.run.errors import RunFailed, UserError
from transfer.detectors import failures as together
from transfer.detectors.batch_norm import make_precise, share_statistics, undrawn
from transfer.detectors.mapper import Sample
from transfer.detectors.predict import NotFinite
from transfer.detectors.solver import Plan

Batch = list[Sample]


@dataclass
class Solver:
    """How an engine changes weights.

    Attributes:
        optimizer: over the trainable parameters.
        rates: iteration, from 0 -> learning rate of each of the optimizer's groups.
        clip: called between backward pass and step.
    """

    optimizer: torch.optim.Optimizer
    rates: Callable[[int], list[float]]
    clip: Callable[[], None] = lambda: None


@dataclass
class State:
    """All that changes while training; what a checkpoint holds and a resumed run starts from.

    Attributes:
        iteration: steps done; the next step's number.
        sums, counted: sums of the losses since the last row of the curve, and how many.
        averaged_at, evaluated_at: iterations after which statistics were last made precise and the
            detector last evaluated; 0 is never.
        saved_at: iterations after which the last checkpoint was written; None is never.
    """

    model: nn.Module
    solver: Solver
    iteration: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    averaged_at: int = 0
    evaluated_at: int = 0
    saved_at: int | None = None


def train(
    state: State,
    batches: Iterable[Batch],
    plan: Plan,
    *,
    device: torch.device,
    statistics_batches: Callable[[int], Iterable[Batch]],
    each_iteration: Callable[[State, dict[str, float], dict[str, Any] | None], None],
    save: Callable[[State], None],
    look: Callable[[State], None],
) -> None:
    """Train from ``state.iteration`` to the plan's end, the last evaluation included.

    Args:
        batches: this process's, from ``state.iteration`` on.
        statistics_batches: iteration -> batches for precise statistics.
        each_iteration: told the losses, and the row of the curve if one has become complete; may raise
            to stop.
        save: called when a checkpoint is due.
        look: evaluates; called with the statistics precise and the checkpoint saved.

    Raises:
        RunFailed: a loss is not finite, or proposals, weights or what is predicted are not.
        UserError: the batch cannot be divided.
    """
    wrapped = distributed.data_parallel(state.model)
    state.model.train()
    with contextlib.closing(_each(batches)) as stream:
        while True:
            if _due(state.iteration, plan.evaluation_period, plan) > state.evaluated_at:
                with undrawn(plan.seed, state.iteration, device), _diverged(state.iteration):
                    _make_precise(state, plan, statistics_batches)
                save(state)  # outside: it keeps the generators of the training
                with undrawn(plan.seed, state.iteration, device), _diverged(state.iteration):
                    look(state)
                state.evaluated_at = state.iteration
                state.model.train()
                save(state)
            if state.iteration >= plan.iterations:
                return
            losses = step(wrapped, next(stream), state, plan, device)
            state.iteration += 1
            row = _add(state, losses, plan)
            if (
                _due(state.iteration, plan.checkpoint_period, plan)
                and state.iteration < plan.iterations
            ):
                save(state)
            each_iteration(state, losses, row)


def _each(batches: Iterable[Batch]) -> Generator[Batch]:
    """The batches; closed, it closes a generator of them, whose processes then end."""
    yield from batches


def _make_precise(
    state: State, plan: Plan, statistics_batches: Callable[[int], Iterable[Batch]]
) -> None:
    if state.averaged_at < state.iteration:
        with contextlib.closing(_each(statistics_batches(state.iteration))) as batches:
            parts = _parts(batches, plan.accumulate)
            make_precise(state.model, parts, plan.precise_bn * plan.accumulate)
        share_statistics(state.model)
        state.averaged_at = state.iteration


def _due(iteration: int, period: int, plan: Plan) -> int:
    """The iteration if something with this period is due after it, else 0."""
    periodic = period > 0 and iteration % period == 0
    return iteration if periodic or iteration == plan.iterations else 0


def step(
    model: nn.Module, samples: Batch, state: State, plan: Plan, device: torch.device
) -> dict[str, float]:
    """One step of SGD on one batch; returns the losses, each the mean over the batch's parts."""
    for group, rate in zip(
        state.solver.optimizer.param_groups, state.solver.rates(state.iteration), strict=True
    ):
        group["lr"] = rate
    state.solver.optimizer.zero_grad()
    parts = divide(samples, plan.accumulate)
    sums: dict[str, Tensor] = {}

    def loss_of(part: Batch) -> Tensor:
        with _autocast(plan, device):
            losses = model(part)
            total = sum(losses.values())
        for name, value in losses.items():
            sums[name] = sums.get(name, torch.zeros((), device=device)) + value.detach()
        return total / len(parts) if len(parts) > 1 else total

    # In the last backward pass processes wait for each other: before it, all learn if one has failed.
    with together.raised_by_all(model, device), _diverged(state.iteration):
        for part in parts[:-1]:
            with distributed.averaging(model, now=False):
                loss_of(part).backward()
        total = loss_of(parts[-1])
        values = torch.stack([value.float() for value in sums.values()]) / len(parts)
        losses_now = dict(zip(sums, values.tolist(), strict=True))
        _check_finite(losses_now)
    total.backward()
    state.solver.clip()
    state.solver.optimizer.step()
    return losses_now


def part_of(images: int, parts: int) -> int:
    """Images in each of the parts of a process's batch.

    Raises:
        UserError: the number of images is no multiple of the number of parts.
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


def _parts(batches: Iterable[Batch], parts: int) -> Iterator[Batch]:
    for batch in batches:
        yield from divide(batch, parts)


def _autocast(plan: Plan, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=plan.bf16)


def _check_finite(losses: dict[str, float]) -> None:
    bad = [f"{name} = {value}" for name, value in losses.items() if not np.isfinite(value)]
    if bad:
        raise FloatingPointError(", ".join(bad))


@contextlib.contextmanager
def _diverged(iteration: int) -> Iterator[None]:
    """Detectors raise FloatingPointError on proposals that are not finite, before there is a loss."""
    try:
        yield
    except (FloatingPointError, NotFinite) as error:
        raise diverged(iteration, str(error).partition("\n")[0].rstrip(".")) from error


def diverged(iteration: int, what: str) -> RunFailed:
    """What to say of numbers that became infinite or undefined."""
    return RunFailed(
        f"training diverged at iteration {iteration}: {what}.\n"
        "Try a smaller SOLVER.BASE_LR or a longer SOLVER.WARMUP_ITERS, in a new --output."
    )


def _add(state: State, losses: dict[str, float], plan: Plan) -> dict[str, Any] | None:
    """Add to the sums; the means over all processes when a row is complete."""
    for name, value in losses.items():
        state.sums[name] = state.sums.get(name, 0.0) + value
    state.counted += 1
    if state.iteration % plan.row_period and state.iteration != plan.iterations:
        return None
    everywhere = distributed.gather_objects({k: v / state.counted for k, v in state.sums.items()})
    row: dict[str, Any] = {"iteration": state.iteration}
    for name in everywhere[0]:
        row[name] = sum(losses[name] for losses in everywhere) / len(everywhere)
    row["total_loss"] = sum(value for name, value in row.items() if name != "iteration")
    row["learning_rate"] = state.solver.rates(state.iteration - 1)[0]
    state.sums, state.counted = {}, 0
    return row


def losses_in_words(losses: dict[str, float]) -> str:
    """``loss 1.53 (cls 0.90, box_reg 0.20, ...)``."""
    parts = ", ".join(f"{name.removeprefix('loss_')} {value:.2f}" for name, value in losses.items())
    return f"loss {sum(losses.values()):.2f} ({parts})"
