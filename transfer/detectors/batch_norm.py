"""BatchNorm in detectors: a CPU replacement of SyncBatchNorm, and precise and shared statistics."""

import warnings
from collections.abc import Iterable
from itertools import islice

import torch
from torch import nn

from msbreg.run import distributed
from transfer.detectors.mapper import Sample

# ---- Local BatchNorm in place of SyncBatchNorm, which PyTorch implements for CUDA only


def without_synchronization(module: nn.Module) -> nn.Module:
    """Replace every SyncBatchNorm by a BatchNorm with the same state, in place; return the module."""
    for name, child in module.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain)
        else:
            without_synchronization(child)
    return module


def has_local_norms(module: nn.Module) -> bool:
    """Whether a BatchNorm layer averages over its own process only (naiveSyncBN does not)."""
    return any(type(child) is nn.BatchNorm2d for child in module.modules())


# ---- Precise BatchNorm statistics (arXiv 2105.07576), by the function that Detectron2's hook calls


with warnings.catch_warnings():  # importing fvcore.nn calls torch.jit.script, which is deprecated
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats


def make_precise(model: nn.Module, batches: Iterable[list[Sample]], number: int) -> None:
    """Recompute the statistics of every trainable BatchNorm layer over some batches.

    Args:
        model: in training mode; frozen layers keep their statistics.
        batches: at least ``number`` of them; they may differ in size.
    """
    if number and get_bn_modules(model):
        update_bn_stats(model, islice(batches, number), number)


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Copy the first process's statistics, which checkpoints contain, to all processes.

    They differ between processes with plain BatchNorm, and slightly with SyncBN, since ``make_precise``
    weights batches by their size in each process. With shared statistics, the scores are those of the
    checkpoint.
    """
    mine = {name: value.cpu() for name, value in model.named_buffers()}
    first = distributed.gather_objects(mine if distributed.is_main() else {})[0]
    for name, value in model.named_buffers():
        value.copy_(first[name])
