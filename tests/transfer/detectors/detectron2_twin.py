"""Detectron2's model for our config, with access to its parts and without its warnings."""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from transfer.detectors import detectron2_engine

needs_detectron2 = pytest.mark.skipif(
    not detectron2_engine.available(),
    reason="holds our detector against Detectron2, which is not installed",
)


@contextlib.contextmanager
def its_warnings() -> Iterator[None]:
    """Ignore the deprecation warnings that Detectron2 causes in PyTorch and NumPy."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit\.")
        warnings.filterwarnings("ignore", message=r".*torch\.meshgrid")
        warnings.filterwarnings("ignore", message="__array__", category=DeprecationWarning)
        yield


def pair(config, build_ours) -> tuple[nn.Module, nn.Module]:
    """Our model and Detectron2's, each built with the same state of the global generator."""
    torch.manual_seed(0)
    ours = build_ours(config)
    torch.manual_seed(0)
    with its_warnings():
        theirs = detectron2_engine.build_detector(config)
    return ours, theirs


def inner_values(model: nn.Module, batch: list, run) -> dict[str, Any]:
    """The intermediate values of ``run(model, batch)``, for either model.

    Returns:
        features (name -> tensor), logits and offsets of the proposal network (a list by level), and
        regions (boxes of each image's proposals).
    """
    seen: dict[str, Any] = {"logits": [], "offsets": []}

    def head(_module: nn.Module, _inputs: Any, output: Any) -> None:
        levels = zip(*output, strict=True) if isinstance(output[0], list) else [output]
        for logits, offsets in levels:
            seen["logits"].append(logits)
            seen["offsets"].append(offsets)

    def proposals(_module: nn.Module, _inputs: Any, output: Any) -> None:
        seen["regions"] = [
            r.proposal_boxes.tensor if hasattr(r, "proposal_boxes") else r.boxes for r in output[0]
        ]

    handles = [
        model.backbone.register_forward_hook(lambda _m, _i, out: seen.update(features=out)),
        model.proposal_generator.rpn_head.register_forward_hook(head),
        model.proposal_generator.register_forward_hook(proposals),
    ]
    seen["output"] = run(model, batch)
    for handle in handles:
        handle.remove()
    return seen
