import shutil

import pytest

from msbreg.data.sources import open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.published_trees import places205_tree


@pytest.fixture
def root(tmp_path):
    places205_tree(tmp_path)
    return tmp_path


def test_paths_with_spaces_are_read_in_the_order_of_the_list(root):
    train, val = (open_source(f"places205:{root}", split) for split in ("train", "val"))
    assert train.classes == val.classes == ("abbey", "apartment building/outdoor", "bar")
    assert val.labels.tolist() == [2, 2, 1, 1, 0, 0]
    assert val.entry(2) == "a/apartment building/outdoor/gsun_val1.jpg"
    assert val.image(2).shape == (24, 24, 3)
    assert recognized(root) == "places205"


def test_lists_and_images_may_lie_in_the_root(root):
    expected = open_source(f"places205:{root}", "val").fingerprint
    for folder in ("trainvalsplit_places205", "data/vision/torralba/deeplearning"):
        for path in (root / folder).iterdir():
            path.rename(root / path.name)
    assert open_source(f"places205:{root}", "val").fingerprint == expected


def test_a_mirror_with_class_folders_is_read_with_a_note(make_folder):
    root = make_folder()
    images = open_source(f"places205:{root}", "train")
    assert images.classes == ("class0", "class1")
    (note,) = images.notes
    assert "those of the published lists may differ" in note


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a/abbey/gsun_val0.jpg\n", "expected a path, a space and a label"),
        ("a/abbey/gsun_val0.jpg 205\n", ":1 has the label 205; expected 0 to 204"),
        ("a/abbey/gsun_val0.jpg -1\n", "expected a path, a space and a label"),
        ("a/abbey/gsun_val0.jpg 2\n", "lists no image with the label 0"),
        ("a/abbey/none.jpg 0\n", r"1 of the 1 images in .* are missing, the first: .*none\.jpg"),
        ("z/zoo/none.jpg 0\n", "none of these folders contains z/"),
    ],
)
def test_an_invalid_list_is_rejected_with_the_reason(root, line, words):
    (root / "trainvalsplit_places205" / "val_places205.csv").write_text(line)
    with pytest.raises(UserError, match=words):
        open_source(f"places205:{root}", "val")


def test_the_test_split_and_other_layouts_are_rejected(root):
    with pytest.raises(UserError, match="has no split 'test'; expected train or val"):
        open_source(f"places205:{root}", "test")
    shutil.rmtree(root / "trainvalsplit_places205")
    with pytest.raises(UserError, match=r"neither train_places205\.csv nor the folder train/"):
        open_source(f"places205:{root}", "train")
