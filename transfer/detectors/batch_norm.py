"""Precise BatchNorm statistics of detectors (arXiv 2105.07576), by the function of Detectron2's hook."""

import warnings
from collections.abc import Iterable
from itertools import islice

from torch import nn

from transfer.detectors.mapper import Sample

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
