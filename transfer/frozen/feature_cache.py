"""Frozen features of a split: extracted once, cached, and exported on request."""

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.backbones.features import extract_features
from msbreg.backbones.resnet import ResNet
from msbreg.backbones.spec import Provenance
from msbreg.data.decoding import UnreadableImage
from msbreg.data.sources import ImageSource
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.config import plain
from msbreg.run.files import replacing, writing
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress

FORMAT = 3  # of the cache; part of its key


@dataclass(frozen=True)
class Features:
    """Features of one split.

    Attributes:
        x: (N, D) float32; row i is image i of the source.
        contents: (N,) uint64 hashes of the decoded images; copies of an image have equal hashes.
    """

    x: np.ndarray
    contents: np.ndarray


def extract(
    backbone: ResNet,
    provenance: Provenance,
    source: ImageSource,
    *,
    transform: EvaluationTransform,
    job: Job,
    cache: Path,
    label: str,
    batch_size: int = 64,
    threads: int = 4,
) -> Features:
    """Global average pools of the frozen backbone for all images, read from the cache if possible.

    The cache key consists of weights, source, transform, normalization and device type; a source's
    ``cache_key`` contains the path, size and modification time of each file. If a cache file is damaged,
    the features are extracted again, with a warning.

    Args:
        label: name of the split, for the progress display.

    Raises:
        UserError: a file is not an image (the message names it).
        ImageIOError: a file cannot be read.
    """
    key = [FORMAT, provenance.sha256, provenance.encoder, source.cache_key(), plain(transform)]
    key += [job.device.type, asdict(provenance.normalization), provenance.stride]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    stored = cache / f"{name}.npz"
    if stored.is_file():
        kept = _load(stored, (len(source), backbone.channels["c5"]))
        if isinstance(kept, Features):
            log.info("features of %s (%d images): from the cache", label, len(source))
            return kept
        job.warn(f"the feature cache {stored} is damaged ({kept}); extracting the features again")
    hashed = _Hashed(source)
    with Progress(f"features of {label}", len(source), unit="images") as progress:
        try:
            x = extract_features(
                backbone,
                provenance,
                hashed,
                transform=transform,
                device=job.device,
                batch_size=batch_size,
                threads=threads,
                progress=lambda done, _: progress.update(done),
            )
        except UnreadableImage as error:
            raise UnreadableImage(
                f"{str(error).rstrip('.')}.\nA score over part of a split is not comparable: fix the file, "
                "or remove it from the data set for every method that you compare."
            ) from error
        log.info("features of %s: %d images at %.0f images/s", label, len(source), progress.rate)
    features = Features(x, hashed.contents)
    if np.isfinite(x).all():
        _store(stored, features)
    return features


class _Hashed:
    """An image source that also stores a hash of each image it decodes."""

    def __init__(self, source: ImageSource) -> None:
        self._source = source
        self.contents = np.zeros(len(source), np.uint64)
        self.classes, self.fingerprint = source.classes, source.fingerprint
        self.label, self.name, self.cache_key = source.label, source.name, source.cache_key

    def __len__(self) -> int:
        return len(self._source)

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        pixels = self._source.image(i)
        digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=8)
        digest.update(repr(pixels.shape).encode())
        self.contents[i] = int.from_bytes(digest.digest(), "little")
        return pixels


def _load(path: Path, shape: tuple[int, int]) -> Features | str:
    """The features in a cache file, or a text that says what is wrong with it."""
    try:
        # zipfile verifies the checksums of both arrays.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            x, contents = arrays["x"], arrays["contents"]
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        return str(error) or type(error).__name__
    if x.shape != shape or contents.shape != shape[:1]:
        return f"shape {x.shape}, expected {shape}"
    if x.dtype != np.float32 or contents.dtype != np.uint64:
        return f"type {x.dtype}, expected float32"
    if not np.isfinite(x).all():
        return "values that are not finite"
    return Features(x, contents)


def _store(path: Path, features: Features) -> None:
    """Write the features to the cache. A failure is only logged: the evaluation does not need the cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            np.savez(file, x=features.x, contents=features.contents)
    except OSError as error:
        log.warning("features cannot be cached in %s: %s", path.parent, error.strerror or error)


def export(path: Path, splits: dict[str, tuple[ImageSource, np.ndarray]]) -> None:
    """Write features for analysis outside this suite.

    Args:
        path: ``FILE.npz``: for each split ``SPLIT_features`` (N, D) float32, ``SPLIT_labels`` and
            ``SPLIT_paths`` (N,), and ``classes``. ``FILE.npy``: one ``FILE-SPLIT.npy`` per split with its
            features only.
        splits: name -> (source, features).

    Raises:
        RunFailed: the file cannot be written.
    """
    with writing(path, "features", instead="give another --features-out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            arrays: dict[str, Any] = {}
            for name, (source, x) in splits.items():
                arrays[f"{name}_features"] = x
                arrays[f"{name}_labels"] = np.array([source.label(i) for i in range(len(source))])
                arrays[f"{name}_paths"] = np.array([source.name(i) for i in range(len(source))])
                arrays["classes"] = np.array(source.classes)
            with replacing(path) as file:
                np.savez(file, **arrays)
            log.info("features: %s", path)
            return
        for name, (_, x) in splits.items():
            part = path.with_name(f"{path.stem}-{name}.npy")
            with replacing(part) as file:
                np.save(file, x)
            log.info("features of %s: %s", name, part)
