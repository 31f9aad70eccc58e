"""The one training loop: pre-training, detectors and linear heads all pass through ``train``.

What differs between them stands behind ``Trainable``. What must be right once stands here: when the
curve gets a row, when a checkpoint is written, what happens on a signal, on a loss that is not finite,
on an error in one of several processes, and that an interrupted run ends with the same bits.
"""

import abc
import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from msbreg.data.loading import naming_lost_workers
from msbreg.run import distributed
from msbreg.run.errors import Interrupted
from msbreg.run.failures import Agreement
from msbreg.run.job import Job
from msbreg.run.progress import Progress
from msbreg.train.health import Readings, named
from msbreg.train.state import Checkpoint, State, fresh_draws


class Loss(NamedTuple):
    """The loss of one part of a step.

    Attributes:
        total: what the part adds to the loss of the step; a scalar with gradient.
        terms: what is written down of it, likewise as the part's share; scalars on the device.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


class Trainable(abc.ABC):
    """Something with weights, a loss and an optimizer.

    Attributes:
        model: the module that is trained; with several processes, its gradients are averaged.
        optimizer: over the model's parameters.
        parts: number of parts that ``losses`` yields; each is passed back before the next is made, so
            that memory holds one of them.
        exchanges: a forward pass contains collectives (gathered embeddings, SyncBatchNorm), so that a
            process that fails in it cannot tell the others before they wait for it.
        advice: what to change when training diverges; a sentence.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    parts: int = 1
    exchanges: bool = False
    advice: str

    @abc.abstractmethod
    def learning_rates(self, step: int) -> Sequence[float]:
        """The learning rate of each of the optimizer's groups at a step, from 0."""

    @abc.abstractmethod
    def losses(self, forward: nn.Module, batch: Any, step: int) -> Iterator[Loss]:
        """The parts of a step's loss, ``parts`` of them; ``forward`` is the model, wrapped."""

    @abc.abstractmethod
    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        """A row of the curve from the means of the terms; ``step`` steps are done."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that changes while training; a checkpoint holds it."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put everything back; raises UserError with the difference where it does not fit."""

    def train_mode(self) -> None:
        """Put the modules in training mode."""
        self.model.train()

    def before_update(self) -> None:  # noqa: B027 - optional
        """Called between the backward pass and the update: clip gradients, say."""

    def after_step(self, step: int) -> None:  # noqa: B027 - optional
        """Called after the update of a step, from 0: moving averages, queues, prototypes."""

    def prepare_evaluation(self, step: int) -> None:  # noqa: B027 - optional
        """Called before an evaluation, and before the checkpoint that precedes it."""


@dataclass(frozen=True)
class Plan:
    """The numbers that the loop goes by.

    Attributes:
        steps: in all.
        row_every: steps that a row of the curve averages over; the last step always completes a row.
        save_every: steps between checkpoints; 0 is never before the end.
        save_seconds: time between checkpoints, on the clock of any process.
        evaluate_every: steps between evaluations; 0 is after the last step only.
        read_every: steps between looks at the losses, each of which waits for a GPU. A loss that is
            not finite is found at the next look; no checkpoint is written before one.
        seed: of what is drawn between steps.
    """

    steps: int
    row_every: int
    save_every: int = 0
    save_seconds: float = float("inf")
    evaluate_every: int = 0
    read_every: int = 1
    seed: int = 0

    def due(self, step: int, period: int) -> bool:
        """Whether something with this period is due after ``step`` steps; after the last, always."""
        return step == self.steps or (period > 0 and step > 0 and step % period == 0)


def train(
    trainable: Trainable,
    batches: Iterable[Any],
    plan: Plan,
    state: State,
    checkpoint: Checkpoint,
    *,
    job: Job,
    progress: Progress,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
    evaluate: Callable[[int], dict[str, Any] | None] | None = None,
    describe: Callable[[Mapping[str, float]], str] = lambda terms: "",
) -> None:
    """Train from ``state.step`` to ``plan.steps``, with a last evaluation and a last checkpoint.

    Args:
        batches: this process's, from ``state.step`` on; closed at the end if it is a generator.
        on_row: told each complete row before it joins the curve; may add to it.
        evaluate: called when an evaluation is due; what it returns becomes a row of its own.
        describe: the terms of the last look in words, shown beside the progress bar.

    Raises:
        RunFailed: a loss, weights or predictions are not finite; the message says which, and at which
            step, and which checkpoint is left.
        Interrupted: the job was asked to stop; a checkpoint was written.
    """
    wrapped = distributed.data_parallel(trainable.model)
    readings = Readings(trainable.advice)
    clock = _Clock(plan.save_seconds)
    trainable.train_mode()

    def save() -> None:
        readings.check(state)
        checkpoint.save(trainable, state)
        clock.restart()

    with (
        checkpoint.naming_what_is_left(state),
        naming_lost_workers(),
        contextlib.closing(_each(batches)) as stream,
    ):
        while True:
            if evaluate and plan.due(state.step, plan.evaluate_every) and not state.evaluated:
                _evaluate(trainable, plan, state, evaluate, save, job)
                checkpoint.write_curve(state)
            if state.step >= plan.steps:
                break
            stop, save_now = _step(
                trainable, wrapped, stream, state, readings, plan, [bool(job.stop), clock.due()]
            )
            if plan.due(state.step, plan.row_every):
                _add_row(trainable, state, readings, on_row)
                checkpoint.write_curve(state)
            last = state.step == plan.steps
            progress.update(state.step, describe(readings.latest))
            if save_now or stop or (plan.due(state.step, plan.save_every) and not last):
                save()
            if stop and not last:
                raise Interrupted(
                    f"{job.stop.name or 'a signal to another process'} after step {state.step} of "
                    f"{plan.steps}; saved. The same command continues."
                )
        if state.saved_at != state.step:
            save()


def _step(
    trainable: Trainable,
    wrapped: nn.Module,
    stream: Iterator[Any],
    state: State,
    readings: Readings,
    plan: Plan,
    wishes: list[bool],
) -> list[bool]:
    """One update of the weights; returns which of the wishes any process has.

    Processes exchange one message a step, over the CPU: who failed, who wants to stop or to save. They
    do so at the last moment before the others would wait for a process that failed.
    """
    step = state.step
    groups = trainable.optimizer.param_groups
    for group, rate in zip(groups, trainable.learning_rates(step), strict=True):
        group["lr"] = rate
    trainable.optimizer.zero_grad()
    agreement = Agreement(wishes)
    with agreement:
        batch = next(stream)
        if not trainable.exchanges:
            total = _all_but_the_last_backward(trainable, wrapped, batch, step, readings, plan)
    if trainable.exchanges:
        total = _all_but_the_last_backward(trainable, wrapped, batch, step, readings, plan)
    total.backward()
    trainable.before_update()
    trainable.optimizer.step()
    trainable.after_step(step)
    state.step += 1
    return agreement.wishes


def _all_but_the_last_backward(
    trainable: Trainable,
    wrapped: nn.Module,
    batch: Any,
    step: int,
    readings: Readings,
    plan: Plan,
) -> Tensor:
    """Every forward and backward pass of a step but the last backward pass, in which processes meet."""
    with named(step, trainable.advice):
        parts = trainable.losses(wrapped, batch, step)
        for number in range(trainable.parts):
            last = number == trainable.parts - 1
            with distributed.averaging(wrapped, now=last):
                loss = next(parts)
                readings.add(loss.terms)
                if not last:
                    loss.total.backward()
        readings.close_step(step)
        if plan.due(step + 1, plan.read_every):
            readings.read()
    return loss.total


def _add_row(
    trainable: Trainable,
    state: State,
    readings: Readings,
    on_row: Callable[[dict[str, Any]], None],
) -> None:
    """Complete a row of the curve with the means over all steps since the last and all processes."""
    readings.check(state)
    mine = {name: value / state.counted for name, value in state.sums.items()}
    everywhere = distributed.gather_objects(mine)
    means = {
        name: sum(of_one[name] for of_one in everywhere) / len(everywhere) for name in everywhere[0]
    }
    state.sums, state.counted = {}, 0
    row = trainable.row(state.step, means)
    on_row(row)
    state.curve.append(row)


def _evaluate(
    trainable: Trainable,
    plan: Plan,
    state: State,
    evaluate: Callable[[int], dict[str, Any] | None],
    save: Callable[[], None],
    job: Job,
) -> None:
    """Evaluate; a run that is killed meanwhile continues with the evaluation."""
    if state.prepared_at < state.step:
        with (
            fresh_draws(plan.seed, state.step, job.device),
            named(state.step, trainable.advice),
        ):
            trainable.prepare_evaluation(state.step)
        state.prepared_at = state.step
    save()  # outside: it keeps the generators of the training
    with fresh_draws(plan.seed, state.step, job.device), named(state.step, trainable.advice):
        row = evaluate(state.step)
    state.evaluated_at = state.step
    if row is not None:
        state.curve.append(row)
    trainable.train_mode()
    save()


class _Clock:
    """When the next checkpoint is due by time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        self.since = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.since >= self.seconds


def _each(batches: Iterable[Any]) -> Generator[Any]:
    """The batches; closed, it closes a generator of them, whose worker processes then end."""
    yield from batches
