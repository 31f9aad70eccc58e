"""Images that are corrupted as they are read."""

import numpy as np
import pytest

from msbreg.data.classification.corrupted import CORRUPT, corrupt
from msbreg.data.sources import SOURCES, open_source
from msbreg.run.errors import UserError


def smooth(height: int = 24, width: int = 32) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([60 + 4 * rows, 60 + 3 * columns, 160 - 2 * rows], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("corruption", CORRUPT)
def test_the_highest_severity_is_farther_from_the_image_than_the_lowest(corruption):
    image = smooth()
    random = np.random.default_rng(0)
    found = [corrupt(image, corruption, severity, random) for severity in (1, 5)]
    assert all(each.shape == image.shape and each.dtype == np.uint8 for each in found)
    mild, strong = (np.abs(each.astype(float) - image).mean() for each in found)
    assert 0 < mild < strong


def test_contrast_keeps_the_mean_of_each_channel():
    image = smooth()
    found = corrupt(image, "contrast", 3, np.random.default_rng(0))
    np.testing.assert_allclose(found.mean(axis=(0, 1)), image.mean(axis=(0, 1)), atol=0.3)
    assert found[..., 0].std() == pytest.approx(0.2 * image[..., 0].std(), abs=0.3)


def test_impulse_noise_replaces_a_stated_share_by_black_and_white():
    image = np.full((200, 200, 3), 100, np.uint8)
    found = corrupt(image, "impulse_noise", 5, np.random.default_rng(0))
    assert np.mean(found == 0) == pytest.approx(0.135, abs=0.01)
    assert np.mean(found == 255) == pytest.approx(0.135, abs=0.01)


def test_an_image_is_corrupted_in_the_same_way_whenever_it_is_read(make_folder):
    root = make_folder()
    source = open_source(f"corrupted:{root}", "gaussian_noise/3")
    np.testing.assert_array_equal(source.image(1), source.image(1))
    other = open_source(f"corrupted:{root}", "gaussian_noise/4")
    assert source.fingerprint != other.fingerprint
    assert source.cache_key() != other.cache_key()


def test_no_folder_is_recognized_as_corrupted(make_folder):
    recognizes = SOURCES["corrupted"].recognizes
    assert recognizes is not None
    assert not recognizes(make_folder())


def test_unknown_corruptions_are_named(make_folder):
    with pytest.raises(UserError, match="gaussian_noise, .* 1 to 5"):
        open_source(f"corrupted:{make_folder()}", "rain/1")
