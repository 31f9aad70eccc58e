"""One pass over the images of a split, shared by all frozen-feature protocols, cached and resumed.

Processes divide the shards of the split; each writes its own (see ``feature_store``). A killed run continues
with the shards that are missing.
"""

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.features import feature_batches
from msbreg.backbones.inference import Compile, FrozenBackbone, Precision, compiles
from msbreg.backbones.spec import Provenance
from msbreg.backbones.vit_architectures import is_resnet
from msbreg.data.decoding import UnreadableImage
from msbreg.data.images import content_hash
from msbreg.data.sources import ImageSource
from msbreg.data.transforms import EvaluationTransform
from msbreg.run import distributed
from msbreg.run.config import plain
from msbreg.run.errors import RunFailed
from msbreg.run.failures import Agreement
from msbreg.run.files import remedy, replacing, writing
from msbreg.run.job import Job, log
from msbreg.run.progress import Progress
from transfer.frozen.feature_store import FeatureStore, Rows, Shard

FORMAT = 4  # of the cache; part of its key
BATCH = 64  # divides the rows of all shards but the last


@dataclass(frozen=True)
class Features:
    """Features of one split.

    Attributes:
        x: (N, D) float32; row i is image i of the source. Memory-mapped: it may be larger than the memory.
        contents: (N,) uint64 hashes of the decoded images; copies of an image have equal hashes.
    """

    x: Rows
    contents: np.ndarray


@dataclass(frozen=True)
class Pass:
    """How features are extracted.

    Attributes:
        representation: name of the feature; None is the network's default.
        precision: ``bf16`` computes and stores the features in bfloat16.
        compiled: whether to compile the network; see ``inference.compiles``.
        cache: folder of the feature cache.
        threads: number of threads that decode images.
    """

    cache: Path
    representation: str | None = None
    precision: Precision = "float32"
    compiled: Compile = "auto"
    threads: int = 4


def extract(
    backbone: Backbone,
    provenance: Provenance,
    source: ImageSource,
    settings: Pass,
    *,
    transform: EvaluationTransform,
    job: Job,
    label: str,
) -> Features:
    """Features of the frozen backbone for all images, read from the cache as far as possible.

    The cache key consists of weights, source, transform, representation, precision, normalization, device
    type, and for networks other than ResNets the architecture and how positions are adapted; a source's
    ``cache_key`` contains the path, size and modification time of each file. Damaged shards are extracted
    again, with a warning.

    Args:
        label: name of the split, for the progress display.

    Raises:
        UserError: a file is not an image (the message names it).
        ImageIOError: a file cannot be read.
        RunFailed: a feature is not finite, or one of several processes cannot write to the cache.
    """
    representation = settings.representation or backbone.representations[0]
    store = store_of(
        backbone, provenance, source, settings, transform=transform, device=job.device.type
    )
    missing, damaged = distributed.from_main(store.missing)
    for problem in list(damaged.values())[:1]:
        job.warn(
            f"the feature cache {store.folder} is damaged ({problem}); extracting the features again in "
            f"{len(damaged)} of {len(store.ranges())} shards"
        )
    missing = sorted({*missing, *damaged})
    if not missing:
        log.info("features of %s (%d images): from the cache", label, len(source))
        return Features(*store.open())
    network = FrozenBackbone(
        backbone,
        provenance,
        job.device,
        representation=representation,
        precision=settings.precision,
        compiled=compiles(settings.compiled, len(source)),
    )
    batches = functools.partial(
        feature_batches, network, transform=transform, batch_size=BATCH, threads=settings.threads
    )
    # A process that fails tells the others, which would otherwise wait for its shards.
    with Agreement():
        unstored = _extract_shards(store, missing, source, batches, label)
    if distributed.is_main() and not unstored:
        store.complete()
    distributed.barrier()
    return Features(*store.open(unstored))


def store_of(
    backbone: Backbone,
    provenance: Provenance,
    source: ImageSource,
    settings: Pass,
    *,
    transform: EvaluationTransform,
    device: str,
) -> FeatureStore:
    """Where the features of all images of a source are stored; ``device`` is the type of the device."""
    representation = settings.representation or backbone.representations[0]
    about: dict[str, Any] = {
        "weights": provenance.sha256,
        "encoder": provenance.encoder,
        "source": source.cache_key(),
        "transform": plain(transform),
        "representation": representation,
        "precision": settings.precision,
        "device": device,
        "normalization": asdict(provenance.normalization),
        "stride": provenance.stride,
    }
    if not is_resnet(provenance.arch):
        # Equal tensors with another number of heads or other positions compute other features.
        about |= {"arch": provenance.arch, "positions": provenance.spec.positions}
    key = hashlib.sha256(json.dumps([FORMAT, about], sort_keys=True).encode()).hexdigest()[:24]
    return FeatureStore(
        settings.cache / key, len(source), backbone.width(representation), settings.precision, about
    )


def _extract_shards(
    store: FeatureStore,
    missing: list[int],
    source: ImageSource,
    batches: Callable[[ImageSource, range], Generator[tuple[int, np.ndarray]]],
    label: str,
) -> dict[int, Shard]:
    """Extract and store this process's part of the missing shards.

    Returns the shards that could not be written; a single process can do without the cache.
    """
    ranges, hashed = store.ranges(), _Hashed(source)
    mine = missing[distributed.rank() :: distributed.world_size()]
    total, done = sum(len(ranges[shard]) for shard in mine), 0
    unstored: dict[int, Shard] = {}
    if len(missing) < len(ranges):
        log.info("features of %s: %d of %d shards missing", label, len(missing), len(ranges))
    with Progress(f"features of {label}", total, unit="images") as progress:
        for shard in mine:
            rows = ranges[shard]
            x = np.empty((len(rows), store.width), np.float32)
            with contextlib.closing(batches(hashed, rows)) as stream, _no_part_of_a_split():
                for first, found in stream:
                    x[first : first + len(found)] = found
                    progress.update(done + first + len(found))
            done += len(rows)
            _check_finite(x, label)
            content = x, hashed.contents[rows.start : rows.stop]
            if unstored or not _stored(store, shard, content):
                unstored[shard] = content
        log.info("features of %s: %d images at %.0f images/s", label, total, progress.rate)
    return unstored


def _stored(store: FeatureStore, shard: int, content: Shard) -> bool:
    """Store a shard; False if that fails in a single process, which can keep it in memory."""
    try:
        store.write(shard, content)
    except OSError as error:
        reason = f"features cannot be cached in {store.folder.parent}: {error.strerror or error}"
        if distributed.world_size() > 1:
            raise RunFailed(
                f"{reason}.\n{remedy(error, 'give a --cache that all processes can write to')}"
            ) from error
        log.warning("%s", reason)
        return False
    return True


@contextlib.contextmanager
def _no_part_of_a_split() -> Iterator[None]:
    """Add to the error for an unreadable image why it is not skipped."""
    try:
        yield
    except UnreadableImage as error:
        raise UnreadableImage(
            f"{str(error).rstrip('.')}.\nA score over part of a split is not comparable: "
            "fix the file, or remove it from the data set for every method that you compare."
        ) from error


def _check_finite(
    x: np.ndarray,  # (rows, D)
    label: str,
) -> None:
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if len(bad):
        raise RunFailed(
            f"{len(bad)} of {len(x)} features of {label} are not finite. "
            "Check the backbone's weights and, with --precision bf16, whether float32 works."
        )


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
        self.contents[i] = content_hash(pixels)
        return pixels


def export(path: Path, splits: Mapping[str, tuple[ImageSource, Rows]]) -> None:
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
                arrays[f"{name}_features"] = np.asarray(x)
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
                np.save(file, np.asarray(x))
            log.info("features of %s: %s", name, part)
