"""The training loop shared by pre-training, detection and linear evaluation.

A ``Trainable`` supplies the model, the loss and the optimizer. ``train`` does the rest: it adds rows to
the training curve, writes checkpoints, stops on signals, detects non-finite losses, and raises a failure
of one process in all of them. An interrupted run resumes bit for bit.
"""

import abc
import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from msbreg.data.loading import explaining_lost_workers
from msbreg.run import distributed
from msbreg.run.errors import Interrupted
from msbreg.run.failures import Agreement
from msbreg.run.job import Job
from msbreg.run.progress import Progress
from msbreg.train.health import LossMeter, explaining_divergence, memory_advice
from msbreg.train.state import Checkpoint, State, separate_generators


class Loss(NamedTuple):
    """The loss of one part of a step. The loss of the step is the sum over its parts.

    Attributes:
        total: scalar to call ``backward`` on.
        terms: scalars to log, on the device; summed over the parts like ``total``.
    """

    total: Tensor
    terms: Mapping[str, Tensor]


class Trainable(abc.ABC):
    """A model with its loss and optimizer.

    Attributes:
        model: the module to train. With several processes, its gradients are averaged.
        optimizer: updates the model's parameters.
        parts: number of losses that ``losses`` yields per step. The backward pass of each runs before the
            next is computed, so memory holds the activations of one part at a time.
        exchanges: whether the forward pass contains collectives (gathered embeddings, SyncBatchNorm). If
            so, a process that fails in it cannot report the failure before the others wait for it.
        advice: what to change if training diverges; one sentence.
        memory: the message for running out of memory, with what to reduce.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    parts: int = 1
    exchanges: bool = False
    advice: str
    memory: str = "out of memory while training."

    @abc.abstractmethod
    def learning_rates(self, step: int) -> Sequence[float]:
        """The learning rate of each parameter group at a step; steps count from 0."""

    @abc.abstractmethod
    def losses(self, forward: nn.Module, batch: Any, step: int) -> Iterator[Loss]:
        """Yield the ``parts`` losses of a step.

        Args:
            forward: the model, wrapped for data-parallel training; call this instead of ``model``.
        """

    @abc.abstractmethod
    def row(self, step: int, means: dict[str, float]) -> dict[str, Any]:
        """A row of the training curve after ``step`` steps, from the mean of each loss term."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that training changes, for the checkpoint."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned.

        Raises:
            UserError: the state does not match; the message lists the differences.
        """

    def train_mode(self) -> None:
        """Switch the modules to training mode."""
        self.model.train()

    def before_update(self) -> None:  # noqa: B027 - optional
        """Called between the backward pass and the update, for example to clip gradients."""

    def after_step(self, step: int) -> None:  # noqa: B027 - optional
        """Called after each update, for moving averages, queues or prototypes; steps count from 0."""

    def prepare_evaluation(self, step: int) -> None:  # noqa: B027 - optional
        """Called before each evaluation, and before the checkpoint that precedes it."""


@dataclass(frozen=True)
class Plan:
    """How long to train, and how often to log, save and evaluate.

    Attributes:
        steps: total number of steps.
        row_every: steps averaged in one row of the curve; the last step always completes a row.
        save_every: steps between checkpoints; 0 means only at the end.
        save_seconds: time between checkpoints; any process can trigger one.
        evaluate_every: steps between evaluations; 0 means only after the last step.
        read_every: steps between reads of the losses, each of which waits for the GPU. A non-finite loss
            is detected at the next read. Every checkpoint is preceded by one.
        seed: seeds the random numbers of evaluation, which do not affect training.
    """

    steps: int
    row_every: int
    save_every: int = 0
    save_seconds: float = float("inf")
    evaluate_every: int = 0
    read_every: int = 1
    seed: int = 0

    def due(self, step: int, period: int) -> bool:
        """Whether an event with this period is due after ``step`` steps; always true after the last."""
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
    """Train from ``state.step`` to ``plan.steps``; end with an evaluation and a checkpoint.

    Args:
        batches: the batches of this process, starting at ``state.step``. A generator is closed at the end.
        on_row: called with each complete row before it is added to the curve; may modify it.
        evaluate: called with the step when an evaluation is due. If it returns a row, the row is added to
            the curve.
        describe: formats the latest loss terms for the progress bar.

    Raises:
        RunFailed: a loss, a weight or a prediction is not finite, or memory ran out. The message gives the
            cause and the last checkpoint.
        Interrupted: the job received a signal to stop; a checkpoint was written.
    """
    wrapped = distributed.data_parallel(trainable.model)
    meter = LossMeter(trainable.advice)
    clock = _Clock(plan.save_seconds)
    trainable.train_mode()

    def save() -> None:
        meter.flush(state)
        checkpoint.save(trainable, state)
        clock.restart()

    with (
        checkpoint.named_in_failures(state),
        explaining_lost_workers(),
        memory_advice(trainable.memory),
        contextlib.closing(_closing(batches)) as stream,
    ):
        while True:
            if evaluate and plan.due(state.step, plan.evaluate_every) and not state.evaluated:
                _evaluate(trainable, plan, state, evaluate, save, job)
                checkpoint.write_curve(state)
            if state.step >= plan.steps:
                break
            stop, save_now = _step(
                trainable, wrapped, stream, state, meter, plan, [bool(job.stop), clock.due()]
            )
            if plan.due(state.step, plan.row_every):
                _add_row(trainable, state, meter, on_row)
                checkpoint.write_curve(state)
            last = state.step == plan.steps
            progress.update(state.step, describe(meter.latest))
            if save_now or stop or (plan.due(state.step, plan.save_every) and not last):
                save()
            if stop and not last:
                raise Interrupted(
                    f"{job.stop.name or 'a signal to another process'} after step {state.step} of "
                    f"{plan.steps}; checkpoint saved. Run the same command to continue."
                )
        if state.saved_at != state.step:
            save()


def _step(
    trainable: Trainable,
    wrapped: nn.Module,
    stream: Iterator[Any],
    state: State,
    meter: LossMeter,
    plan: Plan,
    requests: list[bool],
) -> list[bool]:
    """Update the weights once; return which requests (stop, save) were made by any process.

    Processes exchange one message per step over the CPU: whether they failed, and their requests. The
    exchange happens as late as possible, just before the others would wait for a failed process.
    """
    step = state.step
    groups = trainable.optimizer.param_groups
    for group, rate in zip(groups, trainable.learning_rates(step), strict=True):
        group["lr"] = rate
    trainable.optimizer.zero_grad()
    agreement = Agreement(requests)
    with agreement:
        batch = next(stream)
        if not trainable.exchanges:
            loss = _accumulate(trainable, wrapped, batch, step, meter, plan)
    if trainable.exchanges:
        loss = _accumulate(trainable, wrapped, batch, step, meter, plan)
    loss.backward()
    trainable.before_update()
    trainable.optimizer.step()
    trainable.after_step(step)
    state.step += 1
    return agreement.requests


def _accumulate(
    trainable: Trainable,
    wrapped: nn.Module,
    batch: Any,
    step: int,
    meter: LossMeter,
    plan: Plan,
) -> Tensor:
    """Accumulate the gradients of all parts but the last; return the last loss.

    Its backward pass is left to the caller: that is where processes average their gradients.
    """
    with explaining_divergence(step, trainable.advice):
        parts = trainable.losses(wrapped, batch, step)
        for number in range(trainable.parts):
            last = number == trainable.parts - 1
            with distributed.averaging(wrapped, now=last):
                loss = next(parts)
                meter.add(loss.terms)
                if not last:
                    loss.total.backward()
        meter.end_step(step)
        if plan.due(step + 1, plan.read_every):
            meter.read()
    return loss.total


def _add_row(
    trainable: Trainable,
    state: State,
    meter: LossMeter,
    on_row: Callable[[dict[str, Any]], None],
) -> None:
    """Add a row to the curve: means over the steps since the previous row, and over all processes."""
    meter.flush(state)
    local = {name: value / state.counted for name, value in state.sums.items()}
    per_process = distributed.gather_objects(local)
    means = {
        name: sum(terms[name] for terms in per_process) / len(per_process)
        for name in per_process[0]
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
    """Evaluate between two checkpoints; a run killed during the evaluation resumes with it."""
    if state.prepared_at < state.step:
        with (
            separate_generators(plan.seed, state.step, job.device),
            explaining_divergence(state.step, trainable.advice),
        ):
            trainable.prepare_evaluation(state.step)
        state.prepared_at = state.step
    save()  # outside the contexts: it saves the generators that training uses
    with (
        separate_generators(plan.seed, state.step, job.device),
        explaining_divergence(state.step, trainable.advice),
    ):
        row = evaluate(state.step)
    state.evaluated_at = state.step
    if row is not None:
        state.curve.append(row)
    trainable.train_mode()
    save()


class _Clock:
    """Tells when ``seconds`` have passed since the last restart."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.restart()

    def restart(self) -> None:
        self.since = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.since >= self.seconds


def _closing(batches: Iterable[Any]) -> Generator[Any]:
    """Iterate over ``batches``; closing this generator also closes theirs, which ends its workers."""
    yield from batches
