"""Depth in meters from folders and from NYU-v2's labeled file."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from msbreg.data.segmentation.depth_maps import DepthMaps, open_depth_maps
from msbreg.run.errors import UserError
from tests.msbreg.data.segmentation.depth_trees import SIZE, depth_folder, scene


def test_png_depths_are_millimeters(tmp_path):
    source = open_depth_maps(str(depth_folder(tmp_path / "data")), "test")
    stored = cv2.imread(str(tmp_path / "data/depths/test2.png"), cv2.IMREAD_UNCHANGED)
    assert len(source) == 3
    assert source.image(2).shape == (*SIZE, 3)
    np.testing.assert_allclose(source.depth(2), stored / 1000, rtol=1e-6)  # float32
    assert source.depth(2)[0, 0] == 0


def test_numpy_depths_are_meters_and_values_that_are_not_finite_are_unknown(tmp_path):
    root = depth_folder(tmp_path / "data")
    depth = np.full(SIZE, 2.5)
    depth[3, 4], depth[5, 6] = np.nan, np.inf
    (root / "depths/train1.png").unlink()
    np.save(root / "depths/train1.npy", depth)
    found = open_depth_maps(str(root), "train").depth(1)
    assert found.dtype == np.float32
    assert np.argwhere(found != 2.5).tolist() == [[3, 4], [5, 6]]
    assert found[3, 4] == found[5, 6] == 0


def save_gray8(root: Path) -> None:
    cv2.imwrite(str(root / "depths/train0.png"), np.ones(SIZE, np.uint8))


def save_smaller(root: Path) -> None:
    cv2.imwrite(str(root / "depths/train0.png"), np.ones((24, 30), np.uint16))


def save_negative(root: Path) -> None:
    (root / "depths/train0.png").unlink()
    np.save(root / "depths/train0.npy", np.full(SIZE, -1.0))


def save_millimeters(root: Path) -> None:
    (root / "depths/train0.png").unlink()
    np.save(root / "depths/train0.npy", np.full(SIZE, 1000))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (save_gray8, "has mode L; expected 16 bits of gray"),
        (save_smaller, r"has the shape \(24, 30\); expected \(24, 32\)"),
        (save_negative, "has the value -1; expected meters of 0 or more"),
        (save_millimeters, "has the type int64; expected floats, the depth in meters"),
    ],
)
def test_an_invalid_depth_map_is_an_error(tmp_path, change, message):
    root = depth_folder(tmp_path / "data", train=1)
    change(root)
    with pytest.raises(UserError, match=message):
        open_depth_maps(str(root), "train").depth(0)


def test_missing_files_splits_and_layouts_are_errors(tmp_path):
    root = depth_folder(tmp_path / "data")
    (root / "depths/train3.png").unlink()
    with pytest.raises(UserError, match=r"lists 1 of 8 names .*, such as train3"):
        open_depth_maps(str(root), "train")
    with pytest.raises(UserError, match="found the splits: test, train"):
        open_depth_maps(str(root), "val")
    with pytest.raises(UserError, match="expected nyu_depth_v2_labeled.mat, or images/"):
        open_depth_maps(str(tmp_path), "train")


# ---- NYU-v2


def nyu_file(root: Path) -> Path:
    """Four images as MATLAB stores them: all dimensions in reversed order. 2 and 4 are the training split."""
    h5py = pytest.importorskip("h5py", reason="needs the extra depth")
    from scipy.io import savemat

    random = np.random.default_rng(0)
    scenes = [scene(random) for _ in range(4)]
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as content:
        content["images"] = np.stack([image.transpose(2, 1, 0) for image, _ in scenes])
        content["depths"] = np.stack([depth.T for _, depth in scenes])
    savemat(root / "splits.mat", {"trainNdxs": [[2], [4]], "testNdxs": [[1], [3]]})
    return root


def opened(root: Path, split: str) -> DepthMaps:
    return open_depth_maps(str(nyu_file(root)), split)


def test_nyu_images_and_depths_are_those_of_the_split(tmp_path):
    source = opened(tmp_path, "train")
    random = np.random.default_rng(0)
    scenes = [scene(random) for _ in range(4)]
    assert [source.entry(i) for i in range(len(source))] == ["0002.png", "0004.png"]
    for i, k in enumerate((1, 3)):
        assert np.array_equal(source.image(i), scenes[k][0])
        assert np.array_equal(source.depth(i), scenes[k][1])


def test_a_damaged_nyu_file_is_an_error(tmp_path):
    nyu_file(tmp_path)
    (tmp_path / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(UserError, match="cannot be read as HDF5"):
        open_depth_maps(str(tmp_path), "train")


def test_the_nyu_file_needs_the_list_of_splits(tmp_path):
    (tmp_path / "nyu_depth_v2_labeled.mat").touch()
    with pytest.raises(UserError, match=r"splits.mat does not exist"):
        open_depth_maps(str(tmp_path), "train")


def test_the_extra_is_named_where_h5py_is_not_installed(tmp_path, monkeypatch):
    from scipy.io import savemat

    savemat(tmp_path / "splits.mat", {"trainNdxs": [[1]], "testNdxs": [[2]]})
    (tmp_path / "nyu_depth_v2_labeled.mat").touch()
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"needs h5py.*pip install -e '.\[depth\]'"):
        open_depth_maps(str(tmp_path), "train")
