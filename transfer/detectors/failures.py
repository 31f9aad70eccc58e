"""A failure of one of several processes, raised in all: else they would tell of a lost connection."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from msbreg.run import distributed
from msbreg.run.config import Interrupted
from msbreg.run.errors import RunFailed, UserError
from transfer.detectors.memory import is_of_memory


@contextlib.contextmanager
def raised_by_all(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Where a process fails in here, every process raises, each its own failure or the first other's.

    One collective if none fails. What is in here must have no collectives of its own; a model whose
    layers have them raises at once, as the others are waiting in such a layer.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if distributed.world_size() == 1 or _exchanges(model):
            raise
        failure = error
    if distributed.any_process(failure is not None, device):
        raise_first(failure, distributed.gather_objects(as_told(failure)))


def raise_first(failure: Exception | None, told: list[Exception | None]) -> None:
    """Raise this process's failure, or else the first that another one told, if any."""
    for error in (failure, *told):
        if error is not None:
            raise error


def as_told(failure: Exception | None) -> Exception | None:
    """The failure as other processes raise it: what they get by pickle, and what they say of it."""
    if failure is None or isinstance(failure, UserError | RunFailed | Interrupted):
        return failure
    where = f"process {distributed.rank()}"
    if is_of_memory(failure):
        return torch.OutOfMemoryError(f"{where}: {failure}")
    return RunFailed(f"{where} failed, and says how: {type(failure).__name__}: {failure}")


def _exchanges(model: nn.Module) -> bool:
    """Whether its BatchNorm layers average over processes: SyncBN, or either engine's naiveSyncBN."""
    return any(
        isinstance(layer, nn.SyncBatchNorm) or type(layer).__name__ == "NaiveSyncBatchNorm"
        for layer in model.modules()
    )
