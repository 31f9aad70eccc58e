"""The two engines: MMSegmentation, and this suite's own network, which equals it."""

import contextlib
import importlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torchvision
from torch import Tensor

from msbreg.backbones.spec import BackboneSpec
from msbreg.checkpoints.convert.target import Reading, Settings
from msbreg.run.errors import UserError
from transfer.segmenters import mmseg_config
from transfer.segmenters.fcn import Segmenter, build_fcn
from transfer.segmenters.segmentation_config import EngineName, NetworkOptions

log = logging.getLogger("msbreg")

INSTALL = "pip install onedl-mmcv onedl-mmsegmentation"


@dataclass(frozen=True)
class Engine:
    """How to build a segmentation network. Data, losses, training loop, inference and scoring are shared.

    Attributes:
        name: goes into records.
        version: of the library.
        build: spec of the backbone, number of classes, options -> a freshly initialized network on the CPU.
            The state dict of its ``backbone`` has torchvision's names.
        writes_config: whether a run also writes its settings in the library's own format.
    """

    name: EngineName
    version: str
    build: Callable[[BackboneSpec, int, NetworkOptions], Segmenter]
    writes_config: bool = False

    def described(self) -> dict[str, str]:
        """For the record."""
        return {"name": self.name, "version": self.version}


def choose(name: EngineName, options: NetworkOptions | None = None) -> Engine:
    """The engine with this name; ``auto`` is MMSegmentation if it can be used, otherwise torchvision.

    Args:
        options: the network to build; ``auto`` is torchvision if MMSegmentation lacks it.

    Raises:
        UserError: ``mmseg`` is given, but it cannot be imported or lacks the network.
    """
    if name == "torchvision":
        return _torchvision()
    if not mmseg_is_installed():
        if name == "auto":
            return _torchvision()
        raise UserError(
            "--engine mmseg: MMSegmentation is not installed.\n"
            f"Install it ({INSTALL}), or give --engine torchvision, which runs the same card."
        )
    if options is not None and (reason := mmseg_config.refusal(options)):
        if name == "auto":
            log.info("%s; --engine auto uses torchvision instead", reason)
            return _torchvision()
        raise UserError(f"--engine mmseg: {reason}.\nGive --engine torchvision.")
    try:
        mmseg_engine = import_quietly()
    except Exception as error:  # a version for another PyTorch or NumPy may raise anything
        described = f"{type(error).__name__}: {error}".removesuffix(": ")
        problem = f"MMSegmentation is installed, but cannot be imported: {described}"
        if name == "auto":
            log.warning("%s; --engine auto uses torchvision instead", problem)
            return _torchvision()
        raise UserError(
            f"--engine mmseg: {problem}\n"
            f"Install a version that works with this PyTorch ({INSTALL}), or give --engine torchvision."
        ) from error
    return Engine("mmseg", mmseg_engine.version(), mmseg_engine.build, writes_config=True)


def mmseg_is_installed() -> bool:
    """Whether MMSegmentation is installed."""
    return importlib.util.find_spec("mmseg") is not None


def import_quietly() -> ModuleType:
    """``mmseg_engine``, without what mmcv and mmseg warn and print about parts that are not installed.

    Raises:
        Exception: of any kind, if the installation is incomplete or too old.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return importlib.import_module(mmseg_config.ENGINE_MODULE)


def read_converted(path: Path, settings: Settings, images: Tensor) -> list[Reading]:
    """Read a file of ``convert_to_d2.py --to mmseg`` into MMSegmentation's ResNet."""
    readings: list[Reading] = import_quietly().read(path, settings, images)
    return readings


def _torchvision() -> Engine:
    return Engine("torchvision", torchvision.__version__, build_fcn)
