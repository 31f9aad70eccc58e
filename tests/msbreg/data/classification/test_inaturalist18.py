import json

import pytest

from msbreg.data.sources import open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.published_trees import inaturalist18_tree


@pytest.fixture
def root(tmp_path):
    inaturalist18_tree(tmp_path)
    return tmp_path


def change(root, edit) -> None:
    """Edit val2018.json."""
    file = root / "val2018.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_the_split_comes_from_the_json_although_the_tree_mixes_both(root):
    train, val = (open_source(f"inaturalist18:{root}", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (12, 6)
    assert not set(train.paths) & set(val.paths)
    assert {path.rpartition("/")[0] for path in train.paths} == {
        path.rpartition("/")[0] for path in val.paths
    }
    assert recognized(root) == "inaturalist18"


def test_the_label_is_the_category_id(root):
    val = open_source(f"inaturalist18:{root}", "val")
    assert val.classes == ("Plantae/0", "Aves/1", "Aves/2")
    assert [int(path.split("/")[2]) for path in val.paths] == val.labels.tolist() == [0, 1, 2] * 2
    assert val.image(5).shape == (24, 24, 3)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda c: c["annotations"].pop(),
            "is missing; expected categories, images, and annotations",
        ),
        (lambda c: c["images"].pop(), "1 annotations belong to no image"),
        (lambda c: c.pop("categories"), "'categories' is missing"),
        (lambda c: c["categories"].pop(0), "ids of its 2 categories are not 0, 1, 2"),
        (lambda c: c["categories"].pop(), "the label of image 2 is 2, .*; expected 0 to 1"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "an image has two annotations"),
        (lambda c: c["images"][0].update(file_name="none.jpg"), "1 of the 6 images .* are missing"),
        (lambda c: c.update(images=3), "is not a file of iNaturalist 2018"),
    ],
)
def test_an_invalid_json_is_rejected_with_the_reason(root, edit, words):
    change(root, edit)
    with pytest.raises(UserError, match=words):
        open_source(f"inaturalist18:{root}", "val")


def test_a_category_without_images_is_an_error(root):
    def relabel(content):
        for annotation in content["annotations"]:
            annotation["category_id"] %= 2

    change(root, relabel)
    with pytest.raises(UserError, match="1 of the 3 classes have no image: Aves/2"):
        open_source(f"inaturalist18:{root}", "val")


def test_the_tree_alone_is_not_enough(root):
    (root / "train2018.json").unlink()
    with pytest.raises(UserError, match="the split of iNaturalist 2018 exists only in that file"):
        open_source(f"inaturalist18:{root}", "train")
    with pytest.raises(UserError, match="has no split 'test'; expected train or val"):
        open_source(f"inaturalist18:{root}", "test")


def test_reading_it_as_a_folder_names_the_layout(root):
    with pytest.raises(
        UserError, match=f"looks like the layout inaturalist18: use inaturalist18:{root}"
    ):
        open_source(str(root), "train")
