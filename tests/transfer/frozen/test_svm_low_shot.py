"""Low-shot draws follow Goyal et al.'s rule and depend on the seed alone."""

import numpy as np
import pytest

from msbreg.run.errors import UserError
from transfer.frozen.svm_low_shot import draw_labels, low_shot_average_precisions


def data(images=200, seed=0):
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((images, 10))
    labels = np.where(features[:, :4] + 0.5 * draw.standard_normal((images, 4)) > 0.8, 1, -1)
    labels[draw.random((images, 4)) < 0.1] = 0
    return features.astype(np.float32), labels


def low_shot(shots=4, draws=3, **settings):
    settings = {"cost": 0.5, "difficult": ("exclude", "exclude"), "solver": "newton"} | settings
    found, _, _ = low_shot_average_precisions(
        data(), data(seed=1), shots=shots, draws=draws, **settings
    )
    return found


def test_each_class_draws_k_positives_and_k_negatives_for_every_other_class():
    _, labels = data()
    drawn = draw_labels(labels, 4, np.random.default_rng(0))
    assert ((drawn == 1).sum(axis=0) == 4).all()
    assert ((drawn == -1).sum(axis=0) == 4 * 3).all()
    assert (drawn[drawn != 0] == labels[drawn != 0]).all()


def test_a_class_with_few_negatives_has_all_of_them():
    labels = np.array([[1, -1]] * 8 + [[-1, 1]] * 3)
    drawn = draw_labels(labels, 3, np.random.default_rng(0))
    assert (drawn[:, 0] == -1).sum() == 3
    drawn = draw_labels(np.hstack([labels] * 2), 3, np.random.default_rng(0))
    assert (drawn[:, 0] == -1).sum() == 3


def test_a_class_with_too_few_positives_is_named():
    _, labels = data()
    labels[:, 2] = np.where(np.arange(200) < 3, 1, -1)
    with pytest.raises(UserError, match="class 2 has 3 positive and 197 negative images"):
        draw_labels(labels, 4, np.random.default_rng(0))


def test_draws_differ_and_more_draws_keep_the_first_ones():
    few, many = low_shot(draws=2), low_shot(draws=4)
    np.testing.assert_allclose(many[:2], few, atol=1e-9)
    assert len(np.unique(many.mean(axis=1))) == 4


def test_the_seed_changes_the_draws():
    assert not np.array_equal(low_shot(seed=0), low_shot(seed=1))


def test_both_solvers_give_the_same_average_precisions():
    # Equal up to swaps of neighbors in a ranking of about 180 images.
    np.testing.assert_allclose(low_shot(), low_shot(solver="liblinear"), atol=0.5)


def test_more_images_per_class_score_higher():
    assert low_shot(shots=20).mean() > low_shot(shots=1).mean() + 5


def test_difficult_images_can_be_drawn_as_negatives():
    assert not np.array_equal(low_shot(), low_shot(difficult=("negative", "exclude")))
