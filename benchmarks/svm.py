"""Time the VOC07 SVM protocol against VISSL's way: CPU time of one thread, interleaved rounds.

    python benchmarks/svm.py                                     # 2 costs, the size of VOC07
    python benchmarks/svm.py --costs 0.01 0.1 1 2 5 10 15 20 50 100 1000 --routes newton

VISSL's trainer calls scikit-learn's ``cross_val_score`` for each class and cost, and then fits on all images
at that cost as well: for 20 classes and 11 costs, 880 runs of LIBLINEAR. All routes start from the same
features in memory. Each round runs every route once, so that changes in machine load affect all of them.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before BLAS is loaded: idle threads spin, which counts as CPU time

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC

from transfer.frozen.svm_solver import SvmModel, class_average_precisions, decision, fit_svm

# Images of VOC2007 trainval that show each class, of 5,011, in alphabetical order of the classes.
POSITIVES = (
    *(238, 243, 330, 181, 244, 186, 713, 337, 445, 141),
    *(200, 421, 287, 245, 2008, 245, 96, 229, 261, 256),
)
VOC07_IMAGES = 5011


def newton(features: np.ndarray, labels: np.ndarray, costs: tuple[float, ...]) -> SvmModel:
    """Ours: all classes and folds together."""
    return fit_svm(features, labels, costs=costs, solver="newton")


def liblinear(features: np.ndarray, labels: np.ndarray, costs: tuple[float, ...]) -> SvmModel:
    """Ours: LIBLINEAR for each class, cost and fold, in one process."""
    return fit_svm(features, labels, costs=costs, solver="liblinear")


def vissl(features: np.ndarray, labels: np.ndarray, costs: tuple[float, ...]) -> SvmModel:
    """Cross-validation and a fit for each class and cost, as VISSL's trainer."""
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5
    fitted, scores = [], np.empty((labels.shape[1], len(costs)))
    for index, column in enumerate(labels.T):
        machines = []
        for position, cost in enumerate(costs):
            machine = LinearSVC(C=cost, dual=True, max_iter=2000, class_weight={1: 2, -1: 1})
            scores[index, position] = cross_val_score(
                machine, rows, column, cv=3, scoring="average_precision"
            ).mean()
            machines.append(machine.fit(rows, column))
        fitted.append(machines[scores[index].argmax()])
    return SvmModel(
        weights=np.stack([machine.coef_[0] for machine in fitted]),
        bias=np.array([machine.intercept_[0] for machine in fitted]),
        costs=np.array([machine.C for machine in fitted]),
        cv_scores=scores,
        unconverged=0,
    )


ROUTES = {"newton": newton, "liblinear": liblinear, "vissl": vissl}


def draw_split(
    images: int, centers: np.ndarray, mixing: np.ndarray, draw: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Non-negative features like pooled ones of a ResNet, and labels with VOC07's class frequencies."""
    labels = np.full((images, len(centers)), -1)
    for index, count in enumerate(POSITIVES[: len(centers)]):
        shown = draw.permutation(images)[: max(3, round(images * count / VOC07_IMAGES))]
        labels[shown, index] = 1
    shared = draw.standard_normal((images, len(mixing))) @ mixing
    noise = draw.standard_normal((images, centers.shape[1]))
    return np.maximum((labels == 1) @ centers + 2 * shared + 0.5 * noise, 0).astype(
        np.float32
    ), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=VOC07_IMAGES, help="in each split")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--costs", type=float, nargs="+", default=[0.1, 1.0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--routes", nargs="+", default=list(ROUTES), choices=ROUTES)
    sizes = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # LIBLINEAR's, at the limit of iterations

    draw = np.random.default_rng(0)
    centers = 0.1 * draw.standard_normal((sizes.classes, sizes.width))  # mAP near published ones
    spectrum = 1 / np.sqrt(np.arange(1, 257))
    mixing = spectrum[:, None] * draw.standard_normal((256, sizes.width))
    mixing /= np.sqrt((spectrum**2).sum())
    train, test = (draw_split(sizes.images, centers, mixing, draw) for _ in range(2))

    seconds: dict[str, list[float]] = {name: [] for name in sizes.routes}
    models = {}
    for _ in range(sizes.rounds):
        for name in sizes.routes:
            start = time.process_time()
            models[name] = ROUTES[name](*train, tuple(sizes.costs))
            seconds[name].append(time.process_time() - start)

    print(f"{sizes.images} x {sizes.width}, {sizes.classes} classes, costs {sizes.costs}")
    print(f"{'route':12}{'CPU s':>9}{'x first':>9}{'mAP %':>10}{'same costs':>12}")
    first = sizes.routes[0]
    for name in sizes.routes:
        ratio = statistics.median(
            theirs / own for theirs, own in zip(seconds[name], seconds[first], strict=True)
        )
        score = class_average_precisions(decision(models[name], test[0]), test[1]).mean()
        same = np.count_nonzero(models[name].costs == models[first].costs)
        print(
            f"{name:12}{statistics.median(seconds[name]):9.2f}{ratio:9.2f}{score:10.4f}"
            f"{same:9}/{sizes.classes}"
        )


if __name__ == "__main__":
    main()
