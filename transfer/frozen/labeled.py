"""Features with labels of an ImageFolder tree's two splits: where kNN and linear begin."""

from dataclasses import dataclass

import numpy as np

from msbreg.data.folder import ImageList
from msbreg.data.sources import image_split
from msbreg.run.errors import UserError
from msbreg.run.job import Job
from transfer.frozen.evaluation import FrozenConfig, load_network, resolve_transform
from transfer.frozen.features import extract


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
        images: the N images.
        x: (N, D) float32 features.
        labels: (N,) class indices.
    """

    images: ImageList
    x: np.ndarray
    labels: np.ndarray


def labeled_splits(config: FrozenConfig, running: Job) -> tuple[Split, Split]:
    """Features of DATA/train and DATA/val; network, transform and data go into the record.

    Raises:
        UserError: the network or the images cannot be read, or the splits have different classes.
    """
    backbone, provenance = load_network(config, running)
    transform = resolve_transform(config, provenance, running)
    lists = {name: image_split(config.data, name) for name in ("train", "val")}
    if lists["train"].classes != lists["val"].classes:
        raise UserError(f"{config.data}: train and val have different classes; expected the same")
    running.record.content["data"] = {
        name: {"images": len(images), "fingerprint": images.fingerprint}
        for name, images in lists.items()
    }
    splits = []
    for name, images in lists.items():
        features = extract(
            backbone,
            provenance,
            [images.root / path for path in images.paths],
            transform=transform,
            job=running,
            cache=config.cache,
            label=name,
            threads=config.workers,
        )
        assert images.labels is not None
        splits.append(Split(images, features.x, images.labels))
    return splits[0], splits[1]
