"""What is likely to be wrong with a file that does not compute what it should."""

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from msbreg.checkpoints.convert.consumer_settings import Settings
from msbreg.checkpoints.convert.executor import STAGES, Executor
from msbreg.checkpoints.convert.target import Target

CLOSE = 1e-4  # of the largest value: another mistake does not come this near


def likely_cause(
    target: Target,
    state: dict[str, Tensor],
    settings: Settings,
    images: Tensor,
    wanted: dict[str, Tensor],
) -> str:
    """The mistake whose undoing makes the numbers right, or what the first wrong stage suggests."""
    mistakes: dict[str, Callable[[Settings], Settings]] = {
        "the order of channels: it agrees with RGB and BGR exchanged": _other_channels,
        "the place of the stride: it agrees with stride 2 in the other convolution": _other_stride,
        "both: channels and stride exchanged": lambda s: _other_stride(_other_channels(s)),
    }
    for words, undo in mistakes.items():
        if _first_wrong(target, state, undo(settings), images, wanted) is None:
            return words
    stage = _first_wrong(target, state, settings, images, wanted)
    if stage is None:
        return "the library reads names or settings otherwise than the file means them"
    if stage == "stem":
        return "mean, standard deviation or a tensor of the stem"
    return f"a tensor of {stage}: names exchanged, or the wrong encoder"


def _other_channels(settings: Settings) -> Settings:
    return replace(settings, channels="BGR" if settings.channels == "RGB" else "RGB")


def _other_stride(settings: Settings) -> Settings:
    return replace(settings, stride_in_1x1=not settings.stride_in_1x1)


def _first_wrong(
    target: Target,
    state: dict[str, Tensor],
    settings: Settings,
    images: Tensor,
    wanted: dict[str, Tensor],
) -> str | None:
    found = Executor(state, target.layout, settings)(images)
    for stage in STAGES:
        same = found[stage].shape == wanted[stage].shape
        allowed = CLOSE * float(wanted[stage].abs().max())
        if not (same and float((found[stage] - wanted[stage]).abs().max()) <= allowed):
            return stage
    return None
