"""A layout that no row knows: the user says where the network is and what it was trained on."""

from msbreg.backbones.spec import IMAGENET
from msbreg.checkpoints.layouts.account import EVERYTHING
from msbreg.checkpoints.layouts.row import ZERO_TO_ONE, Encoder, Format
from msbreg.run.errors import UserError

OTHERS = {"other": IMAGENET, "other-zero-one": ZERO_TO_ONE}


def other(family: str, encoder: str | None) -> Format:
    """A row for torchvision's names at a place that the user gives; never taken on its own.

    Args:
        family: ``other`` for ImageNet's normalization, ``other-zero-one`` for pixels / 255.
        encoder: ``ENTRY:PREFIX``, such as ``model.student:backbone.`` or ``:`` for the file itself.

    Raises:
        UserError: the place is not given so.
    """
    entry, colon, prefix = (encoder or "").partition(":")
    if not colon or (prefix and not prefix.endswith(".")):
        raise UserError(
            f"--family {family} needs to know the network: --encoder is {encoder!r}; expected "
            "ENTRY:PREFIX, such as state_dict:student.backbone. with the prefix's last dot, or "
            "':' for a bare state dict"
        )
    return Format(
        family,
        covers="a network with torchvision's names, where the user says it is",
        source="the user",
        encoders=(Encoder(f"{entry}:{prefix}", prefix),),
        why="the user said so",
        entry=tuple(entry.split(".")) if entry else (),
        dropped=EVERYTHING,
        normalization=OTHERS[family],
        note="layout and normalization are the user's statement",
    )
