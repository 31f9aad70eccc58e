"""BatchNorm in detectors: a CPU replacement of SyncBatchNorm, and precise statistics."""

import warnings
from collections.abc import Iterable
from itertools import islice

from torch import nn

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
