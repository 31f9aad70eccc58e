"""The certificate: the written file computes the same as the checkpoint, from pixels to the last stage.

The file is read back. Its tensors must have the same bytes as the source, and the stem and stages of
its network must agree with the source on one image. The source uses its own normalization, the reader
the settings in the file. Features are compared in float64, where only mistakes show.
"""

import copy
import hashlib
import math
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msbreg.backbones.resnet import ResNet
from msbreg.backbones.spec import BackboneSpec
from msbreg.checkpoints.convert.target import (
    STAGES,
    Executor,
    Features,
    Reader,
    Reading,
    Settings,
    Target,
)
from msbreg.checkpoints.layouts.names import place
from msbreg.run.errors import UserError

SIZE = (65, 96)
"""Height and width of the image, one odd and one even, so that wrong paddings and strides show."""

TOLERANCE = 1e-10
"""Largest allowed difference of a stage, relative to its largest value, in float64. A different order
of summation changes values by up to 1e-13 at any depth; a std of 0.228 instead of 0.229, the smallest
mistake seen in practice, by 1e-3. In float32, correct ResNet-101s differ by up to 4e-5."""

Errors = dict[str, dict[str, float]]
"""Stage -> ``relative`` and ``absolute`` difference in float64, and relative difference in ``float32``."""


class ConversionFailed(RuntimeError):
    """The written file does not match the checkpoint and is not kept."""


def certify(
    path: Path,
    target: Target,
    settings: Settings,  # used if the format cannot store settings
    backbone: ResNet,
    spec: BackboneSpec,
    readers: Sequence[Reader] = (),
) -> dict[str, Any]:
    """Read the file back with the formulas and with every reader; compare tensors and features.

    Raises:
        ConversionFailed: a tensor or a stage differs, or a library did not load every tensor. The
            message lists the differences.
    """
    written, stored = target.decode(path)
    settings = stored if stored is not None else settings
    source = {target.names(place(k)): v for k, v in backbone.state_dict().items()}
    _same_tensors(source, written, f"the {target.name} file", ignored="")
    images = noise(*SIZE)
    wanted = {dtype: features_of(backbone, spec, images, dtype) for dtype in PRECISIONS}
    readings = [_by_formulas(target, written, settings, images)]
    for reader in (*target.readers, *readers):
        readings += _read(reader, path, settings, images)
    compared = []
    for reading in readings:
        if reading.problems:
            raise ConversionFailed(
                f"{reading.reader} could not load every tensor of the {target.name} file; "
                "nothing was written:\n  " + "\n  ".join(reading.problems[:8])
            )
        _same_tensors(written, reading.loaded, reading.reader, reading.ignored)
        errors = compare(_features(reading, target), wanted)
        if not passed(errors):
            raise ConversionFailed(_failure(target, reading, errors))
        count = len(reading.loaded)
        size = "x".join(map(str, SIZE))
        compared.append({"reader": reading.reader, "tensors": count, "errors": {size: errors}})
    return {
        "kind": "msbreg-conversion",
        "schema": 1,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
        },
        "target": target.name,
        "settings": settings,
        "sizes": [list(SIZE)],
        "precision": "float64",
        "tolerance": TOLERANCE,
        "tensors": {"written": len(written), "sha256": state_sha256(written)},
        "readings": compared,
        "passed": True,
    }


PRECISIONS = (torch.float64, torch.float32)


@torch.no_grad()
def features_of(
    backbone: ResNet,
    spec: BackboneSpec,
    images: Tensor,  # (B, 3, H, W) uint8 RGB
    dtype: torch.dtype,
) -> Features:
    """Stem and res2 to res5 of one of our networks, which is not modified."""
    if dtype != torch.float32:
        backbone = copy.deepcopy(backbone).to(dtype)
    n = spec.normalization
    ordered = images.flip(1) if n.channels == "BGR" else images
    mean, std = (
        255 * torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (n.mean, n.std)
    )
    pixels = ((ordered.double() - mean) / std).to(dtype)
    stem = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(pixels))))
    stages = {f"res{name[1:]}": value for name, value in backbone(pixels).items()}
    return {"stem": stem} | stages


def state_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes, independent of order and container."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equality of dtype, shape and bytes: NaN equals itself, and -0 differs from 0."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and one.numpy().tobytes() == other.numpy().tobytes()


def noise(height: int, width: int) -> Tensor:
    """Noise (1, 3, H, W) uint8 in which each channel is brighter than the previous one."""
    generator = torch.Generator().manual_seed(height * width)
    values = torch.rand(1, 3, height, width, generator=generator)
    return (values * torch.tensor([120.0, 180.0, 255.0]).view(3, 1, 1)).to(torch.uint8)


def _by_formulas(
    target: Target, state: dict[str, Tensor], settings: Settings, images: Tensor
) -> Reading:
    try:
        spec = target.understand(settings)
    except UserError as error:
        raise ConversionFailed(
            f"the settings in the {target.name} file describe another network; nothing was written.\n{error}"
        ) from error
    executor = Executor(state, target.layout, spec)
    try:
        executor(images[..., :33, :33], torch.float32)
    except KeyError as error:
        raise ConversionFailed(
            f"the {target.name} file lacks the tensor {error}, which its network reads; "
            "nothing was written."
        ) from error
    except RuntimeError as error:  # PyTorch: wrong shapes
        raise ConversionFailed(
            f"tensors of the {target.name} file have inconsistent shapes; nothing was written.\n"
            f"PyTorch says: {error}"
        ) from error
    unused = sorted(set(state) - executor.used)
    problems = (f"unused: {', '.join(unused[:6])}",) if unused else ()
    return Reading("formulas", state, lambda dtype: executor(images, dtype), problems)


def _read(reader: Reader, path: Path, settings: Settings, images: Tensor) -> list[Reading]:
    try:
        return reader(path, settings, images)
    except Exception as error:
        raise ConversionFailed(
            f"{reader.__module__} could not read the file back; nothing was written.\n"
            f"{type(error).__name__}: {error}"
        ) from error


def _features(reading: Reading, target: Target) -> dict[torch.dtype, Features]:
    try:
        return {dtype: reading.features(dtype) for dtype in PRECISIONS}
    except Exception as error:
        raise ConversionFailed(
            f"{reading.reader} cannot run the network of the {target.name} file; nothing was written.\n"
            f"{type(error).__name__}: {error}"
        ) from error


def _same_tensors(
    wanted: dict[str, Tensor], found: dict[str, Tensor], where: str, ignored: str
) -> None:
    """Check that all tensors have the same bytes; names that end in ``ignored`` may be missing."""
    lines = []
    for name, value in wanted.items():
        if name in found:
            if not same_bits(value, found[name]):
                lines.append(f"  changed  {name}")
        elif not (ignored and name.endswith(ignored)):
            lines.append(f"  missing  {name}")
    lines += [f"  added    {name}" for name in found if name not in wanted]
    if lines:
        more = f"\n  ... and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise ConversionFailed(
            f"{where} does not contain the tensors of the checkpoint; nothing was written:\n"
            + "\n".join(lines[:8])
            + more
        )


def compare(
    found: dict[torch.dtype, Features],  # in float64 and in float32
    wanted: dict[torch.dtype, Features],
) -> Errors:
    """The differences of each stage."""
    double, single = PRECISIONS
    return {
        stage: difference(found[double][stage], wanted[double][stage])
        | {"float32": difference(found[single][stage], wanted[single][stage])["relative"]}
        for stage in STAGES
    }


def difference(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """Largest difference, absolute and relative to the largest value; infinite if shapes differ."""
    if found.shape != wanted.shape:
        return {"relative": math.inf, "absolute": math.inf}
    absolute = float((found - wanted).abs().max())
    largest = float(wanted.abs().max())
    relative = absolute / largest if largest > 0 else (0.0 if absolute == 0 else math.inf)
    return {"relative": relative, "absolute": absolute}


def passed(errors: Errors) -> bool:
    """Whether every stage is within the tolerance in float64, and finite in float32."""
    return not any(map(_wrong, errors.values()))


def _wrong(error: dict[str, float]) -> bool:
    return not (error["relative"] <= TOLERANCE and math.isfinite(error["float32"]))


def _failure(target: Target, reading: Reading, errors: Errors) -> str:
    """The error message: which stages differ, and by how much."""
    lines = [
        f"  {stage:<5} differs by {error['relative']:.1e} (float32: {error['float32']:.1e})"
        for stage, error in errors.items()
        if _wrong(error)
    ]
    return (
        f"the {target.name} file does not compute the same as the checkpoint; nothing was written.\n"
        f"Read by {reading.reader}; relative differences (allowed: {TOLERANCE:.0e}):\n"
        + "\n".join(lines)
    )
