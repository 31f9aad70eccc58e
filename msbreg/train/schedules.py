"""Pure functions from a step to a value. Steps count from 0; ``total`` is the number of steps."""

import math


def warmup_cosine(
    step: int, total: int, *, peak: float, warmup: int, start: float = 0.0, final: float = 0.0
) -> float:
    """Linear from ``start`` to ``peak`` over ``warmup`` steps, then half a cosine to ``final``.

    MSBReg §7.1; BYOL (Grill et al., arXiv 2006.07733, appendix J): per step, not per epoch.
    """
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def target_decay(step: int, total: int, *, base: float) -> float:
    """The target network's decay: from ``base`` up to 1 by half a cosine (BYOL, §3.3)."""
    return 1 - (1 - base) * (math.cos(math.pi * step / total) + 1) / 2
