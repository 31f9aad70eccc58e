"""How often each training image is repeated, so that images of rare classes are seen more often.

Repeat factor sampling (LVIS, arXiv 1908.03195, appendix B.2), with the numbers and the random order of
Detectron2's RepeatFactorTrainingSampler (detectron2/data/samplers/distributed_sampler.py).
"""

import math
from collections import Counter

import torch
from torch import Tensor

from msbreg.data.scenes import Scenes


def repeat_factors(
    scenes: Scenes, threshold: float, *, square_root: bool = True
) -> Tensor:  # (N,) float32
    """The mean number of occurrences of each scene in a shuffle; at least 1.

    A class that occurs in a fraction f of the scenes has the factor max(1, sqrt(threshold / f)); a scene has
    the largest factor of its classes, those of crowds included.

    Args:
        threshold: fraction of the scenes below which a class is repeated (DATALOADER.REPEAT_THRESHOLD).
        square_root: whether to take the square root (DATALOADER.REPEAT_SQRT).
    """
    shown = [{instance.label for instance in scene.instances} for scene in scenes.scenes]
    counts = Counter(label for labels in shown for label in labels)

    def of_class(count: int) -> float:
        ratio = threshold / (count / len(shown))
        return max(1.0, math.sqrt(ratio) if square_root else ratio)

    factors = {label: of_class(count) for label, count in counts.items()}
    return torch.tensor(
        [max((factors[label] for label in labels), default=1.0) for labels in shown],
        dtype=torch.float32,
    )


def repeated(
    factors: Tensor,  # (N,) float32
    generator: torch.Generator,
) -> Tensor:  # (M,) int64
    """The indices 0 to N - 1, each repeated by its factor, which is rounded at random to a neighbor.

    A factor of 1.3 becomes 2 with probability 0.3, and 1 otherwise.

    >>> repeated(torch.tensor([1.0, 3.0]), torch.Generator().manual_seed(0))
    tensor([0, 1, 1, 1])
    """
    whole = factors.trunc()
    up = torch.rand(len(factors), generator=generator) < factors - whole
    return torch.arange(len(factors)).repeat_interleave((whole + up).long())


def shuffled(
    factors: Tensor,  # (N,) float32
    generator: torch.Generator,
) -> Tensor:  # (M,) int64
    """A shuffle of the ``repeated`` indices."""
    indices = repeated(factors, generator)
    return indices[torch.randperm(len(indices), generator=generator)]
