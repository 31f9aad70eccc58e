"""Time the VOC07 SVM protocol by Newton's method against VISSL's way.

    python benchmarks/svm.py                    # VISSL's 11 costs, the size of VOC07
    python benchmarks/svm.py --costs 0.1 1
    python benchmarks/svm.py --full             # VISSL's way for every class: an hour or more

VISSL's trainer calls scikit-learn's ``cross_val_score`` for each class and cost, and then fits on all
images at that cost as well: for 20 classes and 11 costs, 880 runs of LIBLINEAR. Unless ``--full`` is given,
these run for a few classes only, spread evenly over the numbers of positive images, and their time is
multiplied by classes / sampled classes. Its wall time on several cores is taken as CPU time / cores, which no
scheduler can beat. If other programs use the cores, only the CPU times mean something: threads that wait for
each other spin. Both start from the same features in memory.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before BLAS is loaded: idle threads spin, which counts as CPU time

import argparse
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

from transfer.frozen.svm_crossvalidation import Selection, select_costs
from transfer.frozen.svm_solver import C_GRIDS, SvmModel, class_average_precisions, decision

# Images of VOC2007 trainval that show each class, of 5,011, in alphabetical order of the classes.
POSITIVES = (
    *(238, 243, 330, 181, 244, 186, 713, 337, 445, 141),
    *(200, 421, 287, 245, 2008, 245, 96, 229, 261, 256),
)
VOC07_IMAGES = 5011


def normalized(features: np.ndarray) -> np.ndarray:
    """Rows of length 1, as both solvers take them."""
    rows = features.astype(np.float64)
    return rows / (np.linalg.norm(rows, axis=1, keepdims=True) + 1e-5)


def newton(features: np.ndarray, labels: np.ndarray, costs: tuple[float, ...]) -> Selection:
    """Ours: all classes and folds together."""
    kept = np.ones(labels.shape, dtype=bool)
    return select_costs(normalized(features), labels == 1, kept, costs=costs, folds=3)


def vissl(features: np.ndarray, labels: np.ndarray, costs: tuple[float, ...]) -> SvmModel:
    """Cross-validation and a fit for each class and cost, as VISSL's trainer."""
    rows = normalized(features)
    fitted, scores, unconverged = [], np.empty((labels.shape[1], len(costs))), 0
    for index, column in enumerate(labels.T):
        machines = []
        for position, cost in enumerate(costs):
            machine = LinearSVC(C=cost, dual=True, max_iter=2000, class_weight={1: 2, -1: 1})
            scores[index, position] = cross_val_score(
                machine, rows, column, cv=3, scoring="average_precision"
            ).mean()
            machines.append(machine.fit(rows, column))
            unconverged += machine.n_iter_ >= machine.max_iter
        fitted.append(machines[scores[index].argmax()])
    return SvmModel(
        weights=np.stack([machine.coef_[0] for machine in fitted]),
        bias=np.array([machine.intercept_[0] for machine in fitted]),
        costs=np.array([machine.C for machine in fitted]),
        cv_scores=scores,
        unconverged=unconverged,
    )


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
    features = np.maximum((labels == 1) @ centers + 2 * shared + 0.5 * noise, 0)
    return features.astype(np.float32), labels


def spread_classes(
    labels: np.ndarray,  # (N, C)
    sample: int,
) -> np.ndarray:  # (sample,)
    """Classes at evenly spaced ranks of the number of positive images."""
    ranked = np.argsort((labels == 1).sum(axis=0), kind="stable")
    return np.sort(ranked[((np.arange(sample) + 0.5) * len(ranked) / sample).astype(int)])


def average_precisions(
    model: Selection | SvmModel, test: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:  # (C,) in percent
    """Scores on the test split of synthetic images."""
    machine = SvmModel(model.weights, model.bias, model.costs, model.cv_scores, 0)
    return class_average_precisions(decision(machine, test[0]), test[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=VOC07_IMAGES, help="in each split")
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--costs", type=float, nargs="+", default=C_GRIDS["vissl"])
    parser.add_argument("--sample", type=int, default=2, help="classes that VISSL's way is run for")
    parser.add_argument("--full", action="store_true", help="run VISSL's way for every class")
    parser.add_argument(
        "--cores",
        type=int,
        default=2,
        help="of an idle machine, for the wall time; 1: only CPU time",
    )
    sizes = parser.parse_args()
    costs = tuple(sizes.costs)
    warnings.simplefilter("ignore")  # LIBLINEAR's, at the limit of iterations

    draw = np.random.default_rng(0)
    # mAP of 88 %, near published ones, at the default sizes
    centers = 0.131 * draw.standard_normal((sizes.classes, sizes.width))
    spectrum = 1 / np.sqrt(np.arange(1, 257))
    mixing = spectrum[:, None] * draw.standard_normal((256, sizes.width))
    mixing /= np.sqrt((spectrum**2).sum())
    train, test = (draw_split(sizes.images, centers, mixing, draw) for _ in range(2))
    print(f"{sizes.images} x {sizes.width}, {sizes.classes} classes, costs {list(costs)}")

    # ---- Ours: CPU time on one thread, wall time on several.
    torch.set_num_threads(1)
    start = time.process_time()
    ours = newton(*train, costs)
    own_cpu = time.process_time() - start
    own_wall = own_cpu
    if sizes.cores > 1:
        torch.set_num_threads(sizes.cores)
        start = time.perf_counter()
        newton(*train, costs)
        own_wall = time.perf_counter() - start
    own_scores = average_precisions(ours, test)
    gaps = np.append(ours.cv_gaps, ours.gaps)
    print(
        f"newton  {own_cpu:.1f} CPU s on one thread, {own_wall:.1f} s wall on {sizes.cores} cores, "
        f"mAP {own_scores.mean():.4f} %\n        gaps / (1/2 |w|^2): median {np.median(gaps):.1e}, largest "
        f"{gaps.max():.1e}; {ours.unconverged} of {gaps.size} fits unconverged",
        flush=True,
    )

    # ---- VISSL's way, on a sample of the classes.
    count = sizes.classes if sizes.full else min(sizes.sample, sizes.classes)
    sample = spread_classes(train[1], count)
    start = time.process_time()
    theirs = vissl(train[0], train[1][:, sample], costs)
    measured = time.process_time() - start
    their_cpu = measured * sizes.classes / count
    their_scores = average_precisions(theirs, (test[0], test[1][:, sample]))
    how = "measured" if count == sizes.classes else f"extrapolated from {measured:.1f} s"
    difference = own_scores[sample].mean() - their_scores.mean()
    same = np.count_nonzero(ours.costs[sample] == theirs.costs)
    print(
        f"vissl   {their_cpu:.1f} CPU s, {how}; classes {sample.tolist()}, "
        f"{theirs.unconverged} of {count * len(costs)} fits on all images unconverged\n"
        f"newton is {their_cpu / own_cpu:.1f} x faster in CPU time and "
        f"{their_cpu / sizes.cores / own_wall:.1f} x on {sizes.cores} cores; on these classes mAP differs by "
        f"{difference:+.4f} points and {same} of {count} chosen costs are the same"
    )


if __name__ == "__main__":
    main()
