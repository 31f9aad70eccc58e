"""Low-shot VOC07: classifiers fitted on a few positive images per class, over several random draws.

Source: Goyal et al. 2019 and its repository (FSSB, extra_scripts/create_voc_low_shot_samples.py): for C
classes, each class draws k of its positive images and (C - 1) k of its negative ones, and ignores all
others. FSSB then reports the cost that is best on the test split; here the cost is fixed beforehand,
because k images are too few for cross-validation and nothing is chosen on the test split.
"""

import numpy as np

from msbreg.run.errors import UserError
from transfer.frozen.svm_solver import (
    Difficult,
    Solver,
    class_average_precisions,
    decision,
    fit_at_cost,
)


def draw_labels(
    labels: np.ndarray,  # (N, C): 1 = present, -1 = absent, 0 = never drawn
    shots: int,
    generator: np.random.Generator,
) -> np.ndarray:  # (N, C), with 0 for the images that are not drawn
    """Draw `shots` positive images of each class, and as many negative ones for every other class.

    A class with too few negative images has all of them. Classes draw independently: an image can be drawn
    for one class and not for another.

    Raises UserError if a class has fewer positive images, or no negative one.
    """
    drawn = np.zeros_like(labels)
    classes = labels.shape[1]
    for index in range(classes):
        positive, negative = (np.flatnonzero(labels[:, index] == value) for value in (1, -1))
        if len(positive) < shots or not len(negative):
            raise UserError(
                f"class {index} has {len(positive)} positive and {len(negative)} negative images; "
                f"expected at least {shots} positive and 1 negative. Use fewer shots, or exclude the class."
            )
        count = min(len(negative), max(1, classes - 1) * shots)
        drawn[generator.choice(positive, shots, replace=False), index] = 1
        drawn[generator.choice(negative, count, replace=False), index] = -1
    return drawn


def low_shot_average_precisions(
    train: tuple[np.ndarray, np.ndarray],  # features (N, D), labels (N, C) in {1, -1, 0}
    test: tuple[np.ndarray, np.ndarray],  # features (M, D), labels (M, C)
    *,
    shots: int,
    draws: int,
    cost: float,
    difficult: tuple[Difficult, Difficult],  # in training, in testing
    seed: int = 0,
    solver: Solver = "liblinear",
    jobs: int = 1,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray, int]:  # (R, C) in percent, (M, R C), unconverged fits
    """Interpolated average precision of each of R draws and C classes, and the decision values behind it.

    A draw is a function of the seed, the number of shots and its own number, so more draws keep the first
    ones. The classifiers of all draws are fitted in one call.
    """
    labels = train[1]
    if difficult[0] == "negative":
        labels = np.where(labels == 0, -1, labels)
    drawn = [
        draw_labels(labels, shots, np.random.default_rng((seed, shots, number)))
        for number in range(draws)
    ]
    model = fit_at_cost(
        train[0],
        np.concatenate(drawn, axis=1),
        cost=cost,
        seed=seed,
        jobs=jobs,
        solver=solver,
        device=device,
    )
    decisions = decision(model, test[0])
    precisions = [
        class_average_precisions(each, test[1], difficult[1])
        for each in np.split(decisions, draws, axis=1)
    ]
    return np.stack(precisions), decisions, model.unconverged
