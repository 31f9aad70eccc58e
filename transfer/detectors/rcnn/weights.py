"""Load a backbone or a whole detector into a model of either engine; every tensor is accounted for.

Both engines use Detectron2's names. A backbone's names are suffixes of the detector's
(detectron2/checkpoint/c2_model_loading.py): ``res5.0.conv1.weight`` goes to ``roi_heads.res5`` in a C4 model
and to ``backbone.bottom_up.res5`` with a pyramid. Detectron2 only warns about tensors that do not match;
here they are an error unless they are listed below.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from msbreg.checkpoints.layouts.names import COUNTER
from msbreg.checkpoints.load import load_exactly
from msbreg.run.errors import UserError

FRESH = {
    "proposal_generator.*": "the proposal network is trained with the detector",
    "backbone.fpn_*": "the pyramid is trained with the detector",
    "roi_heads.box_head.*": "the box head is trained with the detector",
    "roi_heads.box_predictor.*": "the predictors are trained with the detector",
    "roi_heads.mask_head.*": "the mask head is trained with the detector",
    "roi_heads.keypoint_head.*": "the keypoint head is trained with the detector",
    "roi_heads.res5.norm.*": "backbones do not have the extra norm of the C4 head",
}
"""Parts that backbones do not have -> why they keep their initial weights."""

# Detectron2's C4 head has three bottlenecks at every depth. For a ResNet-18 or -34, its loader copies those
# tensors of the basic blocks whose names and shapes happen to match into this head; the others keep their
# initial values. Here the whole head keeps its initial values.
SHALLOW_C4 = "the C4 head has bottlenecks, the backbone's last stage has basic blocks"
COUNTERS = "a counter, which norms with fixed momentum do not use"
PIXELS = "the config states it"
OLD_ANCHORS = "anchors are computed"


@dataclass(frozen=True)
class Loaded:
    """What happened to each tensor.

    Attributes:
        taken: number of the detector's tensors that were loaded from the source.
        fresh: reason -> the detector's tensors that keep their initial values.
        left_out: reason -> the source's tensors that were not used.
    """

    taken: int
    fresh: dict[str, tuple[str, ...]]
    left_out: dict[str, tuple[str, ...]]


def is_detector(state: Mapping[str, object]) -> bool:
    """Whether a state dict is that of a whole detector, with Detectron2's names."""
    return any(key.startswith("roi_heads.box_predictor.") for key in state)


def place_backbone(
    model: nn.Module,
    state: Mapping[str, Tensor],
    source: Path | str,
) -> Loaded:
    """Load a backbone into a detector, in place.

    Args:
        model: a detector of either engine.
        state: under Detectron2's names without prefix (``stem.conv1.weight``, ``res2.0.conv1.norm.bias``);
            ``msbreg.checkpoints.layouts.names.to_dialect(state, detectron2)`` converts torchvision's names.
        source: for error messages.

    Raises:
        UserError: a tensor is missing, left over, not finite or has another shape; the message lists the
            differences.
    """
    own = model.state_dict()
    shallow = "roi_heads.res5.0.conv1.weight" in own and "res5.0.conv3.weight" not in state
    fresh: dict[str, list[str]] = {}
    left_out: dict[str, list[str]] = {}
    placed: dict[str, Tensor] = {}
    rest = dict(state)
    if shallow:
        for name in [name for name in rest if name.startswith("res5.")]:
            rest.pop(name)
            left_out.setdefault(SHALLOW_C4, []).append(name)
    used = set()
    for key, value in own.items():
        ending = _ending(key, rest)
        if ending is not None:
            placed[key] = rest[ending]
            used.add(ending)
        elif reason := _why_fresh(key, shallow):
            placed[key] = value
            fresh.setdefault(reason, []).append(key)
    for name, value in rest.items():
        if name not in used and name.endswith(COUNTER):  # FrozenBN has no counter
            left_out.setdefault(COUNTERS, []).append(name)
        elif name not in used:
            placed[name] = value
    load_exactly(model, placed, Path(source))
    taken = len(own) - sum(map(len, fresh.values()))
    return Loaded(taken, _frozen(fresh), _frozen(left_out))


def _ending(key: str, names: Mapping[str, Tensor]) -> str | None:
    """The longest of the names that is a suffix of the key, split at dots."""
    parts = key.split(".")
    endings = (".".join(parts[i:]) for i in range(len(parts)))
    return next((ending for ending in endings if ending in names), None)


def _why_fresh(key: str, shallow: bool) -> str | None:
    """Why a tensor of the detector may be missing; None if it must be loaded."""
    for pattern, reason in FRESH.items():
        if fnmatchcase(key, pattern):
            return reason
    if shallow and key.startswith("roi_heads.res5."):
        return SHALLOW_C4
    return COUNTERS if key.endswith(COUNTER) else None


def place_detector(
    model: nn.Module,
    config: CfgNode,
    state: Mapping[str, Tensor],
    source: Path | str,
) -> Loaded:
    """Load the weights of a whole detector into one with the same config, in place.

    Args:
        state: state dict of our model or of Detectron2's (``model`` in its checkpoints, also in old ones).

    Raises:
        UserError: a tensor is missing, left over, not finite or has another shape (the message lists the
            differences), or PIXEL_MEAN or PIXEL_STD differ from the config.
    """
    own = model.state_dict()
    fresh: dict[str, list[str]] = {}
    left_out: dict[str, list[str]] = {}
    placed: dict[str, Tensor] = {}
    for key, value in state.items():
        if key in ("pixel_mean", "pixel_std"):
            _check_pixels(config, key, value, source)
            left_out.setdefault(PIXELS, []).append(key)
        elif "anchor_generator.cell_anchors" in key:
            left_out.setdefault(OLD_ANCHORS, []).append(key)
        elif key.endswith(COUNTER) and key not in own:
            left_out.setdefault(COUNTERS, []).append(key)
        else:
            placed[key] = value
    for key, value in own.items():
        if key not in placed and key.endswith(COUNTER):
            placed[key] = value
            fresh.setdefault(COUNTERS, []).append(key)
    load_exactly(model, placed, Path(source))
    return Loaded(len(own) - sum(map(len, fresh.values())), _frozen(fresh), _frozen(left_out))


def _check_pixels(config: CfgNode, key: str, value: Tensor, source: Path | str) -> None:
    name = f"MODEL.{key.upper()}"
    wanted = torch.tensor(config.MODEL[key.upper()])
    found = value.flatten().to(wanted.dtype)
    if found.shape != wanted.shape or not torch.allclose(found, wanted, rtol=0, atol=0.01):
        trained = [round(number, 3) for number in found.tolist()]
        raise UserError(
            f"{source} was trained with {name} {trained}; the config has {wanted.tolist()}.\n"
            f'Give: {name} "{trained}" (and check INPUT.FORMAT)'
        )


def _frozen(grouped: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    return {reason: tuple(names) for reason, names in grouped.items()}
