"""The two engines: Detectron2, and an equivalent one built from torchvision's operators."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from fvcore.common.config import CfgNode
from torch import nn

from msbreg.run.errors import UserError
from transfer.detectors import detectron2_engine, torchvision_engine
from transfer.detectors.detection_config import EngineName
from transfer.detectors.predict import predict
from transfer.detectors.solver import Solver

log = logging.getLogger("msbreg")


@dataclass(frozen=True)
class Engine:
    """How to build and optimize a detector. Data loading, training loop and scoring are shared.

    Attributes:
        name: goes into records.
        version: of the library.
        build: config -> a freshly initialized detector on the CPU. It maps samples to losses in training
            mode and to Detections in eval mode; its parameters have Detectron2's names.
        solver: config, detector -> optimizer, schedule and gradient clipping.
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
    """The engine with this name; ``auto`` is Detectron2 if it can be imported, otherwise torchvision.

    Raises:
        UserError: ``detectron2`` is given, but it cannot be imported.
    """
    if name == "torchvision":
        return _torchvision()
    if not detectron2_engine.available():
        if name == "auto":
            return _torchvision()
        raise UserError(
            "--engine detectron2: Detectron2 is not installed.\n"
            "Install it (detectron2.readthedocs.io, tutorials/install), or give --engine torchvision, "
            "which reads the same yaml."
        )
    try:
        version = detectron2_engine.version()
    except Exception as error:  # a build for another PyTorch or Pillow may raise anything
        description = detectron2_engine.describe_error(error)
        problem = f"Detectron2 is installed, but cannot be imported: {description}"
        if name == "auto":
            log.warning("%s; --engine auto uses torchvision instead", problem)
            return _torchvision()
        raise UserError(
            f"--engine detectron2: {problem}\n"
            "Install a version that works with this PyTorch and Pillow, or give --engine torchvision."
        ) from error
    return Engine(
        "detectron2", version, detectron2_engine.build_detector, detectron2_engine.build_solver
    )


def _torchvision() -> Engine:
    return Engine(
        "torchvision",
        torchvision_engine.version(),
        torchvision_engine.build_detector,
        torchvision_engine.build_solver,
    )
