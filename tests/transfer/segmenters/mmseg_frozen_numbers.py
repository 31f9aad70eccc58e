"""MMSegmentation's numbers for the cases, recorded so that our network can be tested without it.

Written where MMSegmentation is installed:  python -W ignore -m tests.transfer.segmenters.mmseg_frozen_numbers
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.transfer.segmenters.mmseg_cases import (
    CASES,
    RATE,
    STEPS,
    Case,
    batch_of,
    image_of,
    in_double,
    settled,
)
from transfer.segmenters.crops import training_crop
from transfer.segmenters.fcn import Segmenter
from transfer.segmenters.segmentation_config import AugmentationOptions
from transfer.segmenters.segmenter_training import SegmenterTraining
from transfer.segmenters.windows import class_scores

FROZEN = ("moco-d16", "fcn-d8-769", "small-stem")
"""The cases that are recorded: the cheap ones that together have every option."""
FILE = Path(__file__).with_suffix(".json")
CPU = torch.device("cpu")
CROPS = {
    "base": AugmentationOptions(
        crop=(40, 48), base=(96, 72), largest_class=0.75, photometric=True, scales=(0.5, 2.0)
    ),
    "small": AugmentationOptions(crop=(80, 80), base=(64, 64), scales=(0.5, 1.0)),
}
"""Augmentations that MMSegmentation's own transforms have."""


def training_of(case: Case, network: Segmenter) -> SegmenterTraining:
    training = SegmenterTraining(network, case.config, RATE, case.spec.normalization, CPU)
    network.train()
    return training


def trained(case: Case, network: Segmenter) -> list[dict[str, float]]:
    """Train for a few steps with our loop's parts, in place; the losses of each step."""
    training = training_of(case, network)
    history = []
    for step in range(STEPS):
        for group, rate in zip(
            training.optimizer.param_groups, training.learning_rates(step), strict=True
        ):
            group["lr"] = rate
        training.optimizer.zero_grad()
        torch.manual_seed(step)  # of dropout
        (loss,) = training.losses(network, batch_of(case, step), step)
        loss.total.backward()
        training.optimizer.step()
        history.append({name: float(value) for name, value in loss.terms.items()})
    return history


def scene(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image (60, 70, 3) with blocks of labels, some of them void."""
    random = np.random.default_rng(number)
    labels = np.kron(random.integers(0, 4, (6, 7)), np.ones((10, 10))).astype(np.uint8)
    labels[labels == 3] = 255
    image = np.kron(random.integers(0, 256, (12, 14, 3)), np.ones((5, 5, 1))).astype(np.uint8)
    return image, labels


def numbers_of_network(case: Case, network: Segmenter) -> dict[str, Any]:
    """Losses, weights after the steps, and scores of an image, computed in float64."""
    with in_double(network):
        losses = trained(case, network)
        weights = [v for v in network.state_dict().values() if v.is_floating_point()]
        network.eval()
        scores = class_scores(
            network, image_of(case), case.config.inference, case.spec.normalization, CPU
        )
    return {
        "losses": losses,
        "weights": float(torch.stack([w.norm() for w in weights]).norm()),
        "scores": [[float(s.mean()), float(s.std())] for s in scores],
        "labels": torch.bincount(scores.argmax(0).flatten(), minlength=5).tolist(),
    }


def numbers_of_crops(crops: list[tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """Shape, mean pixel and numbers of labels of each crop."""
    return [
        {
            "shape": list(labels.shape),
            "pixels": image.reshape(-1, 3).mean(0).tolist(),
            "labels": [int((labels == k).sum()) for k in (0, 1, 2, 255)],
        }
        for image, labels in crops
    ]


def our_crops(name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    return [training_crop(*scene(n), CROPS[name], np.random.RandomState(n)) for n in range(4)]


def main() -> None:
    """Write the file from MMSegmentation's networks and transforms."""
    from tests.transfer.segmenters.mmseg_twin import engine, their_crop

    networks = {}
    for name in FROZEN:
        case = CASES[name]
        theirs = engine().build(case.spec, 5, case.config.network)
        theirs.load_state_dict(settled(case).state_dict())
        networks[name] = numbers_of_network(case, theirs)
    crops = {
        name: numbers_of_crops([their_crop(*scene(n), CROPS[name], n) for n in range(4)])
        for name in CROPS
    }
    versions = {"torch": torch.__version__, "mmsegmentation": engine().version}
    found = json.loads(
        json.dumps({"networks": networks, "crops": crops}),
        parse_float=lambda text: float(f"{float(text):.8g}"),
    )
    FILE.write_text(json.dumps({"versions": versions, **found}, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
