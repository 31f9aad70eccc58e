import pickle

import numpy as np
import pytest

from msbreg.data.folder import list_images
from msbreg.data.packed_paths import PackedPaths

NAMES = ("a/ä.png", "", "b/\udcff.png", "c d/e.jpg")


def test_paths_are_read_as_they_were_written():
    paths = PackedPaths(NAMES)
    assert tuple(paths) == NAMES
    assert [paths[i] for i in range(-4, 4)] == [*NAMES, *NAMES]
    assert paths[1:3] == NAMES[1:3]
    assert paths == NAMES
    assert paths != NAMES[:3]
    assert "a/ä.png" in paths
    with pytest.raises(IndexError):
        paths[4]


def test_selected_and_joined_paths_equal_those_of_tuples():
    paths = PackedPaths(NAMES)
    assert paths.select(np.array([3, 0, 3, -2])) == (NAMES[3], NAMES[0], NAMES[3], NAMES[2])
    assert len(paths.select(np.array([], np.int64))) == 0
    assert PackedPaths.joined([paths, PackedPaths(), paths]) == NAMES * 2
    assert PackedPaths.joined([]) == ()


def test_paths_can_be_sent_to_a_process():
    assert pickle.loads(pickle.dumps(PackedPaths(NAMES))) == NAMES


def test_a_name_that_is_not_utf8_is_listed_and_read(make_folder):
    folder = make_folder(train=1) / "train" / "class0"
    (folder / "000.png").rename(folder / "\udcff.png")
    images = list_images(folder)
    assert images.paths == ("\udcff.png",)
    assert images.image(0).shape == (20, 20, 3)
    assert images.subset([0]).fingerprint != images.fingerprint
    assert images.cache_key() == list_images(folder).cache_key()
