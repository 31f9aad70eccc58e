"""The cost of a task, and what the tasks of a plan share: loaded data and earlier measurements."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.spec import Provenance
from msbreg.data.images import LabeledImages
from msbreg.data.sources import open_source
from msbreg.run.record import protocol_digest
from transfer.frozen.frozen_config import NetworkConfig
from transfer.frozen.frozen_network import open_network

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What a task takes.

    Attributes:
        seconds: by part of the run, such as ``features`` and ``fit``.
        memory: peak in bytes, of the GPU if the task runs on one, else of the process.
        disk: bytes that it writes.
        decoding: images per second that one thread decodes and resizes; 0 if not measured.
        network: images per second of the forward pass or of training; 0 if not measured.
        note: what the plan cannot tell.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    memory: int = 0
    disk: int = 0
    decoding: float = 0.0
    network: float = 0.0
    note: str = ""

    @property
    def total(self) -> float:
        """Seconds of all parts."""
        return sum(self.seconds.values())


class Probe:
    """Measures on one device; equal measurements are made once.

    Attributes:
        counted: folders of features that an earlier task of the plan extracts.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.counted: set[Path] = set()
        self._known: dict[Hashable, Any] = {}
        self._network: tuple[Hashable, tuple[Backbone, Provenance]] | None = None

    def once(self, key: Hashable, measure: Callable[[], T]) -> T:
        """The result of ``measure`` the first time that this key was given."""
        if key not in self._known:
            self._known[key] = measure()
        found: T = self._known[key]
        return found

    def network(self, config: NetworkConfig) -> tuple[Backbone, Provenance]:
        """The network of a task. Only the last one is kept."""
        names = ("checkpoint", "seed", "arch", "encoder", "family", "twin_of", "image_size")
        key = tuple(getattr(config, name) for name in names)
        if self._network is None or self._network[0] != key:
            self._network = key, open_network(config)
        return self._network[1]

    def images(self, data: str, split: str, layout: str = "folder") -> LabeledImages:
        """The images of a split; reading a list of files takes long for large data sets."""
        return self.once(
            ("images", data, split, layout), lambda: open_source(data, split, layout=layout)
        )


def same_work(config: Any, *more: Hashable) -> Hashable:
    """A key that is equal for tasks that do the same work on different weights."""
    return type(config).script, protocol_digest(config), str(config.data), *more


def with_data(config: Any) -> Any:
    """The config with the data that a protocol uses if none are given."""
    return dataclasses.replace(config, data="digits") if config.data is None else config
