"""Is a backbone trained? What its BatchNorm layers tell.

A wrong prefix, a momentum encoder that was never updated or statistics lost in a conversion all load
without an error, and then give a number that looks like a weak method's. PyTorch initializes BatchNorm to
exact values that no training leaves unchanged, so most of these cases show in the weights; for the others
see ``msbreg/backbones/feature_statistics.py``.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from msbreg.run.errors import UserError


@dataclass(frozen=True)
class NormLayer:
    """Which parts of a BatchNorm layer are still exactly as PyTorch initializes them.

    Attributes:
        name: of the layer, such as ``layer1.0.bn3``.
        affine: weight is 1 throughout (or 0 throughout: zero-initialized residuals), and bias is 0.
        mean: running_mean is 0 throughout.
        variance: running_var is 1 throughout.
        batches: num_batches_tracked; None if the state has none.
    """

    name: str
    affine: bool
    mean: bool
    variance: bool
    batches: int | None

    @property
    def statistics(self) -> bool:
        """No layer that saw a batch has a mean of exactly 0 or a variance of exactly 1 throughout."""
        return self.mean or self.variance


def norm_layers(
    state: Mapping[str, Tensor],  # torchvision names, complete
) -> list[NormLayer]:
    """Every BatchNorm layer of a state.

    Raises:
        UserError: a running variance is negative, or a statistic is not finite.
    """
    names = [key.removesuffix(".running_var") for key in state if key.endswith(".running_var")]
    broken = [line for name in names for line in _impossible(state, name)]
    if broken:
        raise UserError(
            f"BatchNorm statistics of {len(broken)} of {2 * len(names)} tensors are impossible:\n"
            + "\n".join(broken[:6])
            + (f"\n  ... and {len(broken) - 6} more" if len(broken) > 6 else "")
            + "\nexpected finite means and variances of 0 or more.\n"
            "The training diverged or the file was converted wrongly; give another checkpoint."
        )
    layers = []
    for name in names:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        scaled = bool((weight == 1).all() or (weight == 0).all())
        count = state.get(f"{name}.num_batches_tracked")
        layers.append(
            NormLayer(
                name,
                affine=scaled and bool((bias == 0).all()),
                mean=bool((state[f"{name}.running_mean"] == 0).all()),
                variance=bool((state[f"{name}.running_var"] == 1).all()),
                batches=None if count is None else int(count),
            )
        )
    return layers


def signs_of_no_training(
    state: Mapping[str, Tensor],  # torchvision names, complete
) -> tuple[str, ...]:
    """Signs that a network is not trained, one sentence each; empty for a trained one.

    num_batches_tracked alone is not a sign: most converters drop it, and it is 0 again on loading.

    Raises:
        UserError: a running variance is negative, or a statistic is not finite.
    """
    layers = norm_layers(state)
    untouched = [x for x in layers if x.affine and x.statistics]
    refilled = [x for x in layers if x.statistics and not x.affine]
    forwarded = [x for x in layers if x.affine and not x.statistics]
    signs = []
    if untouched and len(untouched) == len(layers):
        signs.append(
            f"untouched initialization: all {len(layers)} BatchNorm layers have weight 1 or 0, bias 0, "
            "running_mean 0 and running_var 1, so the network is random."
        )
    elif untouched:
        signs.append(
            f"part of the network is untouched initialization: {_where(untouched, layers)} weight 1 or "
            "0, bias 0, running_mean 0 and running_var 1, so these layers were never loaded or trained."
        )
    if refilled:
        signs.append(
            "BatchNorm statistics were never updated or were stripped and refilled: "
            f"{_where(refilled, layers)} running_mean 0 or running_var 1 throughout, though weight and "
            "bias are not initial; right only if statistics are folded into weight and bias."
        )
    if forwarded:
        signs.append(
            f"forward passes without training: {_where(forwarded, layers)} running statistics that moved "
            "but weight 1 or 0 and bias 0 as initialized, so no gradient reached them."
        )
    return tuple(signs)


def _impossible(state: Mapping[str, Tensor], name: str) -> list[str]:
    lines = []
    for kind in ("running_mean", "running_var"):
        values = state[f"{name}.{kind}"]
        infinite = int((~torch.isfinite(values)).sum())
        negative = int((values < 0).sum()) if kind == "running_var" else 0
        if infinite:
            lines.append(f"  {name}.{kind}: {infinite} of {values.numel()} values are not finite")
        elif negative:
            lines.append(f"  {name}.{kind}: {negative} of {values.numel()} values are negative")
    return lines


def _where(some: Sequence[NormLayer], layers: Sequence[NormLayer]) -> str:
    """``17 of 53 BatchNorm layers (10 in layer4, 7 in layer1) have``, or ``all 53 ... have``."""
    if len(some) == len(layers):
        return f"all {len(layers)} BatchNorm layers have"
    counts = Counter(x.name.partition(".")[0] for x in some)
    places = ", ".join(f"{count} in {part}" for part, count in counts.items())
    return f"{len(some)} of {len(layers)} BatchNorm layers ({places}) have"
