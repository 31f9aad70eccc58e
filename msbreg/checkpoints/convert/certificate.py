"""The certificate: what was written computes what was given, from the pixels of an image on.

The written file is read back, and stem and stages of its network are compared with the source's on
uint8 RGB images: the source by its own normalization, the reader by the settings in the file.
"""

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

from msbreg.backbones.resnet import ResNet, normalize
from msbreg.backbones.spec import Normalization
from msbreg.checkpoints.convert.blame import likely_cause
from msbreg.checkpoints.convert.consumer_settings import Settings
from msbreg.checkpoints.convert.executor import STAGES, Executor
from msbreg.checkpoints.convert.target import Reader, Reading, Target, Words
from msbreg.checkpoints.convert.to_safetensors import features_of
from msbreg.checkpoints.layouts.names import place

SIZES = ((96, 128), (97, 129))
"""Heights and widths that are compared: padding and stride differ between even and odd ones."""

TOLERANCE = 1e-5
"""Largest difference of a stage over its largest value. Float32 sums in another order reach 1e-6; std
0.228 for 0.229, the smallest mistake in the wild, 1e-3."""

Errors = dict[str, dict[str, dict[str, float]]]
"""Size -> stage -> relative and absolute."""


class ConversionFailed(RuntimeError):
    """What was written is not what was given; the file is not kept."""


def certify(
    path: Path,
    target: Target,
    words: Words,  # for formats that have no place for them
    backbone: ResNet,
    normalization: Normalization,
    readers: Sequence[Reader] = (),
) -> dict[str, Any]:
    """Read the file back by formulas and by every reader, and compare tensors and features.

    Raises:
        ConversionFailed: a tensor or a stage differs, or a library did not place every tensor; the
            message says which, by how much, and what is likely to be wrong.
    """
    written, stored = target.decode(path)
    words = stored if stored is not None else words
    source = {target.names(place(k)): v for k, v in backbone.state_dict().items()}
    _same_tensors(source, written, f"the {target.name} file", passed_over="")
    batches = [_images(*size) for size in SIZES]
    pixels = [normalize(images, torch.device("cpu"), normalization) for images in batches]
    wanted = [features_of(backbone, batch) for batch in pixels]
    found = _by_formulas(target, written, target.understand(words), batches)
    readings = [found]
    for reader in (*target.readers, *readers):
        readings += _read(reader, path, words, batches)
    compared = []
    for reading in readings:
        if reading.problems:
            raise ConversionFailed(
                f"{reading.reader} could not place the {target.name} file; nothing was written:\n  "
                + "\n  ".join(reading.problems[:8])
            )
        _same_tensors(written, reading.loaded, reading.reader, reading.passed_over)
        errors = _compare(reading, wanted)
        if not passed(errors):
            cause = likely_cause(target, written, target.understand(words), batches[0], wanted[0])
            raise ConversionFailed(_failure(target, reading, errors, cause))
        count = len(reading.loaded)  # all its network has, and each has the bytes of the file
        compared.append({"reader": reading.reader, "tensors": count, "errors": errors})
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
        "settings": words,
        "sizes": [list(size) for size in SIZES],
        "tolerance": TOLERANCE,
        "tensors": {"written": len(written), "sha256": state_sha256(written)},
        "readings": compared,
        "passed": True,
    }


def state_sha256(state: dict[str, Tensor]) -> str:
    """Of names, types, shapes and bytes, whatever the order and the container."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Type, shape and bytes: NaN equals itself, and -0 is not 0."""
    alike = one.dtype == other.dtype and one.shape == other.shape
    return alike and one.numpy().tobytes() == other.numpy().tobytes()


def _images(height: int, width: int) -> Tensor:
    """Noise (1, 3, H, W) uint8, each channel brighter than the one before."""
    generator = torch.Generator().manual_seed(height * width)
    noise = torch.rand(1, 3, height, width, generator=generator)
    return (noise * torch.tensor([120.0, 180.0, 255.0]).view(3, 1, 1)).to(torch.uint8)


def _by_formulas(
    target: Target, state: dict[str, Tensor], settings: Settings, batches: list[Tensor]
) -> Reading:
    executor = Executor(state, target.layout, settings)
    try:
        features = [executor(images) for images in batches]
    except KeyError as error:
        raise ConversionFailed(
            f"the {target.name} file lacks the tensor {error}, which its network reads; "
            "nothing was written.\nLikely cause: a wrong name, or a tensor left out."
        ) from error
    except RuntimeError as error:  # of PyTorch: shapes
        raise ConversionFailed(
            f"tensors of the {target.name} file do not fit each other; nothing was written.\n"
            f"PyTorch says: {error}\nLikely cause: names exchanged."
        ) from error
    left = sorted(set(state) - executor.used)
    problems = (f"read by nothing: {', '.join(left[:6])}",) if left else ()
    return Reading("formulas", state, features, problems)


def _read(reader: Reader, path: Path, words: Words, batches: list[Tensor]) -> list[Reading]:
    try:
        return reader(path, words, batches)
    except Exception as error:
        raise ConversionFailed(
            f"{reader.__module__} could not read the file back; nothing was written.\n"
            f"{type(error).__name__}: {error}"
        ) from error


def _same_tensors(
    wanted: dict[str, Tensor], found: dict[str, Tensor], where: str, passed_over: str
) -> None:
    """Every tensor with the same bytes; missing are only those that a network has no place for."""
    lines = []
    for name, value in wanted.items():
        if name in found:
            if not same_bits(value, found[name]):
                lines.append(f"  changed  {name}")
        elif not (passed_over and name.endswith(passed_over)):
            lines.append(f"  missing  {name}")
    lines += [f"  added    {name}" for name in found if name not in wanted]
    if lines:
        more = f"\n  ... and {len(lines) - 8} more" if len(lines) > 8 else ""
        raise ConversionFailed(
            f"{where} does not hold the tensors of the checkpoint; nothing was written:\n"
            + "\n".join(lines[:8])
            + more
        )


def _compare(reading: Reading, wanted: list[dict[str, Tensor]]) -> Errors:
    errors: Errors = {}
    for (height, width), found, right in zip(SIZES, reading.features, wanted, strict=True):
        errors[f"{height}x{width}"] = {
            stage: difference(found[stage], right[stage]) for stage in STAGES
        }
    return errors


def difference(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """Largest difference, absolute and over the largest value; infinite for another shape."""
    if found.shape != wanted.shape:
        return {"relative": math.inf, "absolute": math.inf}
    absolute = float((found - wanted).abs().max())
    largest = float(wanted.abs().max())
    relative = absolute / largest if largest > 0 else (0.0 if absolute == 0 else math.inf)
    return {"relative": relative, "absolute": absolute}


def passed(errors: Errors) -> bool:
    """Not a number is not passed."""
    relatives = [error["relative"] for stages in errors.values() for error in stages.values()]
    return all(relative <= TOLERANCE for relative in relatives)


def _failure(target: Target, reading: Reading, errors: Errors, cause: str) -> str:
    """Which stage, by how much, and why."""
    worst = [
        (stage, size, stages[stage]["relative"])
        for stage in STAGES
        for size, stages in errors.items()
        if not stages[stage]["relative"] <= TOLERANCE
    ]
    lines = [f"  {stage:<5} at {size:<8} differs by {by:.1e}" for stage, size, by in worst]
    return (
        f"the {target.name} file does not compute what the checkpoint does; nothing was written.\n"
        f"Read by {reading.reader}; differences over the largest value, {TOLERANCE:.0e} allowed:\n"
        + "\n".join(lines)
        + f"\nLikely cause: {cause}."
    )
