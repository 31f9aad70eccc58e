"""Frozen features: extracted once, kept in a cache, gathered by sample index."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from msbreg.backbones.resnet import ResNet, embed, normalize
from msbreg.backbones.spec import Normalization
from msbreg.checkpoints.load import Provenance
from msbreg.data.folder import UnreadableImage, read_image
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.config import plain
from msbreg.run.errors import UserError
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress

FORMAT = 2  # of the cache; part of its key


@dataclass(frozen=True)
class Features:
    """Features of one split.

    Attributes:
        x: (N, D) float32, row i is image i of the list that was given.
        paths: the N images, as given.
        seconds: what extraction took; 0 from the cache.
    """

    x: np.ndarray
    paths: tuple[Path, ...]
    seconds: float


def extract(
    backbone: ResNet,
    provenance: Provenance,
    paths: Sequence[Path],
    *,
    transform: EvaluationTransform,
    job: Job,
    cache: Path,
    label: str,
    batch_size: int = 64,
    threads: int = 4,
) -> Features:
    """Global average pools of the frozen backbone for the images, from the cache where it has them.

    The cache's key is (weights, files, transform, normalization, device type), where a file is its
    place, size and time of change: names and sizes alone are equal in many a train and val folder.

    Args:
        label: name of the split, for the progress display.

    Raises:
        UserError: an image cannot be read (the message names it).
    """
    key = [FORMAT, provenance.sha256, provenance.encoder, _identity(paths), plain(transform)]
    key += [job.device.type, asdict(provenance.normalization), provenance.stride]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    stored = cache / f"{name}.npy"
    if stored.is_file():
        x = np.load(stored, allow_pickle=False)
        if x.shape[0] == len(paths):
            log.info("features of %s (%d images): from the cache", label, len(paths))
            return Features(x, tuple(paths), 0.0)
    with Progress(f"features of {label}", len(paths), unit="images") as progress:
        x = _forward(
            backbone, paths, transform, provenance.normalization, job, progress, batch_size, threads
        )
        log.info("features of %s: %d images at %.0f images/s", label, len(paths), progress.rate)
        seconds = len(paths) / progress.rate
    _store(stored, x)
    return Features(x, tuple(paths), seconds)


def _forward(
    backbone: ResNet,
    paths: Sequence[Path],
    transform: EvaluationTransform,
    normalization: Normalization,
    job: Job,
    progress: Progress,
    batch_size: int,
    threads: int,
) -> np.ndarray:
    """Decode in threads (OpenCV lets go of the interpreter), one batch ahead of the network."""
    backbone = backbone.to(job.device).to(memory_format=torch.channels_last).eval()

    def pixels(path: Path) -> np.ndarray:
        return transform(read_image(path))

    starts = range(0, len(paths), batch_size)
    x = np.empty((len(paths), backbone.channels["c5"]), np.float32)
    with ThreadPoolExecutor(threads) as pool, torch.inference_mode():
        submit = lambda first: [pool.submit(pixels, p) for p in paths[first : first + batch_size]]  # noqa: E731
        ahead = submit(0)
        for first in starts:
            waiting, ahead = ahead, submit(first + batch_size)
            try:
                batch = torch.from_numpy(np.stack([future.result() for future in waiting]))
            except UnreadableImage as error:
                for future in ahead:
                    future.cancel()
                raise UserError(
                    f"{error}.\nA score over part of a split is no score: mend the file, or leave it "
                    "out of the data set for every method that you compare."
                ) from error
            features = embed(backbone, normalize(batch, job.device, normalization))
            x[first : first + len(batch)] = features.float().cpu().numpy()
            progress.update(min(first + batch_size, len(paths)))
    return x


def _store(path: Path, x: np.ndarray) -> None:
    """Keep the features; a cache that cannot be written costs time, not the result."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.save(file, x, allow_pickle=False)
        os.replace(temporary, path)
    except OSError as error:
        log.warning("features are not kept in %s: %s", path.parent, error.strerror or error)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _identity(paths: Sequence[Path]) -> str:
    """sha256 over place, size and time of change of each file."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            state = path.stat()
            seen = f"{state.st_size} {state.st_mtime_ns}"
        except OSError:  # reading it will name it
            seen = "missing"
        digest.update(f"{path.absolute()}\0{seen}\n".encode())
    return digest.hexdigest()
