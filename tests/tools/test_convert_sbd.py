"""SBD's MATLAB files become palette images and the list of the split trainaug."""

import numpy as np
import pytest
from scipy.io import savemat

from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.run.errors import UserError
from tests.msbreg.data.segmentation.map_trees import save_image, voc_tree
from tools.convert_sbd import convert


def sbd_tree(root, **maps):
    (root / "cls").mkdir(parents=True)
    for name, labels in maps.items():
        savemat(root / "cls" / f"{name}.mat", {"GTcls": {"Segmentation": labels}})
    return root


def test_the_list_is_train_and_all_of_sbd_without_val(tmp_path):
    voc = voc_tree(tmp_path / "voc") / "VOC2012"
    labels = np.arange(20, dtype=np.uint8).reshape(4, 5)
    save_image(voc / "JPEGImages" / "new.jpg", np.zeros((4, 5, 3), np.uint8))
    # b and c are also in VOC: its own map of b is used, and c is in val.
    sbd = sbd_tree(tmp_path / "sbd", new=labels, b=labels, c=labels)
    assert convert(sbd, voc) == (1, 3)
    source = open_label_maps(str(voc), "trainaug")
    assert [source.entry(i) for i in range(3)] == [f"JPEGImages/{n}.jpg" for n in ("a", "b", "new")]
    assert source.label(2).tolist() == labels.tolist()
    assert source.maps[1] == "SegmentationClass/b.png"
    assert convert(sbd, voc) == (0, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"GTcls": {"Segmentation": np.full((2, 2), 21, np.uint8)}}, "expected a matrix of labels"),
        ({"other": 1}, "expected GTcls.Segmentation"),
    ],
)
def test_a_file_with_other_contents_is_an_error(tmp_path, content, message):
    voc = voc_tree(tmp_path / "voc") / "VOC2012"
    (tmp_path / "sbd" / "cls").mkdir(parents=True)
    savemat(tmp_path / "sbd" / "cls" / "d.mat", content)
    for file in (voc / "SegmentationClassAug").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=message):
        convert(tmp_path / "sbd", voc)


def test_missing_images_are_an_error(tmp_path):
    voc = voc_tree(tmp_path / "voc") / "VOC2012"
    sbd = sbd_tree(tmp_path / "sbd", elsewhere=np.zeros((2, 2), np.uint8))
    with pytest.raises(UserError, match=r"1 images are missing in .*, such as elsewhere.jpg"):
        convert(sbd, voc)
    with pytest.raises(UserError, match="contains no label maps"):
        convert(voc, voc)
