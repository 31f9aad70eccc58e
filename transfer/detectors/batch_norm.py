"""BatchNorm over one process in place of SyncBatchNorm, which PyTorch has on CUDA only.

Precise BatchNorm statistics (arXiv 2105.07576), by the function that Detectron2's hook calls.
"""

import warnings
from collections.abc import Iterable
from itertools import islice

import torch
from torch import nn

from msbreg.run import distributed
from transfer.detectors.mapper import Sample

# ---- BatchNorm over one process in place of SyncBatchNorm, which PyTorch has on CUDA only


def without_synchronization(module: nn.Module) -> nn.Module:
    """The module with every SyncBatchNorm replaced, in place, by a BatchNorm of the same state."""
    for name, child in module.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain)
        else:
            without_synchronization(child)
    return module


def has_local_norms(module: nn.Module) -> bool:
    """Whether a BatchNorm in it averages over its own process alone (naiveSyncBN does not)."""
    return any(type(child) is nn.BatchNorm2d for child in module.modules())


# ---- Precise BatchNorm statistics (arXiv 2105.07576), by the function that Detectron2's hoo


with warnings.catch_warnings():  # fvcore.nn scripts its focal loss, which PyTorch calls deprecated
    warnings.simplefilter("ignore", FutureWarning)
    from fvcore.nn.precise_bn import get_bn_modules, update_bn_stats


def make_precise(model: nn.Module, batches: Iterable[list[Sample]], number: int) -> None:
    """Set every trained BatchNorm layer's statistics to those of its inputs over some batches.

    Args:
        model: in training mode; frozen layers keep their statistics.
        batches: at least ``number``; they may differ in size.
    """
    if number and get_bn_modules(model):
        update_bn_stats(model, islice(batches, number), number)


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Every process takes the statistics of the first, which are the ones that a checkpoint keeps.

    They differ between processes with plain BatchNorm, and a little with SyncBN, where ``make_precise``
    weighs batches by their size in each process. Scores then are those of the checkpoint.
    """
    mine = {name: value.cpu() for name, value in model.named_buffers()}
    first = distributed.gather_objects(mine if distributed.is_main() else {})[0]
    for name, value in model.named_buffers():
        value.copy_(first[name])
