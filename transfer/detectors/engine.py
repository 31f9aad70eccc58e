"""Which engine: Detectron2 where it can be imported, else the one of torchvision's parts."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fvcore.common.config import CfgNode
from torch import nn

from msbreg.run.errors import UserError
from transfer.detectors import detectron2_engine as with_detectron2
from transfer.detectors import torchvision_engine as with_torchvision
from transfer.detectors.detection_config import EngineName
from transfer.detectors.predict import predict
from transfer.detectors.solver import Solver

log = logging.getLogger("msbreg")


@dataclass(frozen=True)
class Engine:
    """A way to build and to change a detector; feeding, looping and scoring are the same for all.

    Attributes:
        name: goes into records.
        version: of the library.
        build: settings -> a freshly initialized detector on the CPU, of the contract: samples -> losses
            in training mode, -> Detections in eval mode, with Detectron2's names of parameters.
        solver: settings, detector -> optimizer and its learning rates.
    """

    name: EngineName
    version: str
    build: Callable[[CfgNode], nn.Module]
    solver: Callable[[CfgNode, nn.Module], Solver]

    def described(self) -> dict[str, str]:
        """For the record."""
        return {"name": self.name, "version": self.version}

    predict = staticmethod(predict)


def choose(name: EngineName) -> Engine:
    """The engine of that name; ``auto`` is decided by what is installed, once a run.

    Raises:
        UserError: Detectron2 is asked for and cannot be imported.
    """
    if name == "torchvision":
        return _torchvision()
    if not with_detectron2.available():
        if name == "auto":
            return _torchvision()
        raise UserError(
            "--engine detectron2: Detectron2 is not installed here.\n"
            "Install it (detectron2.readthedocs.io, tutorials/install), or give --engine torchvision, "
            "which reads the same yaml."
        )
    try:
        version = with_detectron2.version()
    except Exception as error:  # whatever one that is older than its PyTorch or Pillow meets
        words = f"Detectron2 is installed, but cannot be imported: {with_detectron2.said(error)}"
        if name == "auto":
            log.warning("%s; --engine auto goes on with torchvision", words)
            return _torchvision()
        raise UserError(
            f"--engine detectron2: {words}\n"
            "Install one that fits this PyTorch and Pillow, or give --engine torchvision."
        ) from error
    return Engine(
        "detectron2", version, with_detectron2.build_detector, with_detectron2.build_solver
    )


def _torchvision() -> Engine:
    return Engine(
        "torchvision",
        with_torchvision.version(),
        with_torchvision.build_detector,
        with_torchvision.build_solver,
    )
