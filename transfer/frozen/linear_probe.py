"""A linear classifier in a file, with what is needed to apply it to the same features again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from msbreg.backbones.spec import Provenance
from msbreg.checkpoints.load import save_checkpoint
from msbreg.checkpoints.read import read_file
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.config import plain
from msbreg.run.errors import UserError

FILE = "probe.pth"
KIND = "msbreg-linear-probe"


@dataclass(frozen=True)
class LinearProbe:
    """Logits = features @ weight + bias; any normalization of the features is folded in.

    Attributes:
        weight: (D, C) float32.
        bias: (C,) float32.
        classes: names of the C classes.
        network: which network the features are from: ``sha256`` of its weights, ``encoder``, ``arch``.
        representation: which feature of the network.
        transform: of the images to evaluate.
    """

    weight: np.ndarray
    bias: np.ndarray
    classes: tuple[str, ...]
    network: Mapping[str, str]
    representation: str
    transform: EvaluationTransform

    def logits(
        self,
        x: np.ndarray,  # (N, D)
        *,
        rows_at_once: int = 8192,
    ) -> np.ndarray:  # (N, C) float32
        starts = range(0, len(x), rows_at_once)
        parts = [np.asarray(x[i : i + rows_at_once], np.float32) @ self.weight for i in starts]
        return np.concatenate(parts) + self.bias

    def check_network(self, provenance: Provenance) -> None:
        """Check that features of this network are those that the probe was trained on.

        Raises:
            UserError: the network has other weights.
        """
        found = network_identity(provenance.as_dict())
        if found != dict(self.network):
            wanted, given = (_described(one) for one in (self.network, found))
            raise UserError(
                f"the probe was trained on another network: {wanted}; the checkpoint is {given}. Give the "
                "checkpoint that transfer/linear.py was run with"
            )


def network_identity(network: Mapping[str, Any]) -> dict[str, str]:
    """The entries of a record's ``network`` that identify the features."""
    return {key: str(network[key]) for key in ("sha256", "encoder", "arch")}


def _described(network: Mapping[str, str]) -> str:
    return f"{network['encoder']} of {network['arch']}, sha256 {network['sha256'][:12]}"


def save_probe(path: Path, probe: LinearProbe) -> None:
    """Write the probe atomically.

    Raises:
        RunFailed: the file cannot be written.
    """
    save_checkpoint(
        path,
        {
            "kind": KIND,
            "weight": torch.from_numpy(probe.weight).contiguous(),
            "bias": torch.from_numpy(probe.bias).contiguous(),
            "classes": list(probe.classes),
            "network": dict(probe.network),
            "representation": probe.representation,
            "transform": plain(probe.transform),
        },
    )


def load_probe(path: Path) -> tuple[LinearProbe, str]:
    """A probe and the sha256 of its file. ``path`` may be the output folder of transfer/linear.py.

    Raises:
        UserError: there is no such file, or it is not a probe.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"probe {file} does not exist; expected the output folder of a completed run of "
            "transfer/linear.py, or its probe.pth"
        )
    read = read_file(file)
    content = read.content
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{file} is not a probe; expected probe.pth of transfer/linear.py. Runs of earlier versions did "
            "not write it: repeat the run"
        )
    try:
        probe = LinearProbe(
            weight=content["weight"].float().numpy(),
            bias=content["bias"].float().numpy(),
            classes=tuple(map(str, content["classes"])),
            network=network_identity(content["network"]),
            representation=str(content["representation"]),
            transform=EvaluationTransform(**content["transform"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is an incomplete probe ({error}); repeat the run") from error
    _check_shapes(probe, probe.classes, file)
    return probe, read.sha256


def _check_shapes(probe: LinearProbe, classes: Sequence[str], file: Path) -> None:
    count = len(classes)
    if probe.weight.ndim != 2 or probe.weight.shape[1] != count or probe.bias.shape != (count,):
        raise UserError(
            f"{file} has weights {probe.weight.shape} and bias {probe.bias.shape} for {count} classes; "
            f"expected (D, {count}) and ({count},)"
        )
    if not (np.isfinite(probe.weight).all() and np.isfinite(probe.bias).all()):
        raise UserError(f"{file} has weights that are not finite; train the probe again")
