import shutil

import pytest

from msbreg.data.decoding import ImageIOError
from msbreg.data.folder import list_images
from msbreg.data.sources import open_source, training_images
from msbreg.run.errors import UserError


def test_class_folders_become_labels_in_sorted_order(make_folder):
    images = list_images(make_folder(train=3) / "train")
    assert images.classes == ("class0", "class1")
    assert images.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert images.paths[0] == "class0/000.png"
    assert images.image(0).shape == (20, 20, 3)


def test_a_flat_folder_has_no_labels(make_folder):
    images = list_images(make_folder(train=3) / "train" / "class0")
    assert images.labels is None
    assert len(images) == 3


def test_images_in_nested_folders_belong_to_their_class(make_folder):
    root = make_folder(train=2) / "train"
    (root / "class0" / "deep").mkdir()
    (root / "class0" / "000.png").rename(root / "class0" / "deep" / "000.png")
    assert list_images(root).labels.tolist() == [0, 0, 1, 1]


def test_pixels_are_rgb(make_folder):
    image = list_images(make_folder(train=1) / "train").image(0)
    # class 0 was written by OpenCV with its first channel, blue, dimmed
    assert image[..., 2].mean() < image[..., 0].mean() / 2


def test_the_fingerprint_changes_with_names_and_sizes(make_folder):
    root = make_folder(train=2) / "train"
    before = list_images(root).fingerprint
    assert before == list_images(root).fingerprint
    with open(root / "class0" / "000.png", "ab") as file:
        file.write(b"x")
    changed = list_images(root).fingerprint
    (root / "class0" / "000.png").rename(root / "class0" / "zzz.png")
    assert len({before, changed, list_images(root).fingerprint}) == 3


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: root.rename(root.parent / "gone"), "does not exist"),
        (lambda root: [f.unlink() for f in root.rglob("*.png")], "contains no images"),
        (lambda root: (root / "a.png").write_bytes(b"x"), "contains both images"),
        (lambda root: (root / "empty").mkdir(), "contains no images"),
    ],
)
def test_an_invalid_folder_is_rejected_with_the_reason(make_folder, damage, words):
    root = make_folder(train=2) / "train"
    damage(root)
    with pytest.raises(UserError, match=words):
        list_images(root)


def test_a_classes_file_selects_folders(make_folder, tmp_path):
    root = make_folder(classes=3, train=2) / "train"
    names = tmp_path / "names.txt"
    names.write_text("class2\nclass0\n")
    chosen = list_images(root, classes_file=names)
    assert chosen.classes == ("class0", "class2")
    assert len(chosen) == 4
    names.write_text("class2\nnothing\n")
    with pytest.raises(
        UserError, match="train does not contain 1 of the 2 classes listed in .*: nothing"
    ):
        list_images(root, classes_file=names)


@pytest.mark.parametrize("names", [("val", "test"), ("Train", "Val")])
def test_folders_that_look_like_splits_are_not_classes(make_folder, names):
    root = make_folder(**dict.fromkeys(names, 2))
    with pytest.raises(UserError, match="look like splits, not classes"):
        training_images(str(root))


def test_a_split_without_class_folders_is_rejected(make_folder):
    root = make_folder(train=2, val=2)
    for file in (root / "val" / "class0").iterdir():
        file.rename(root / "val" / file.name)
    for name in ("class0", "class1"):
        shutil.rmtree(root / "val" / name)
    with pytest.raises(UserError, match="contains images but no class folders"):
        open_source(str(root), "val")


def test_hidden_folders_are_ignored_and_dangling_links_reported(make_folder):
    root = make_folder(train=2) / "train"
    (root / ".ipynb_checkpoints").mkdir()
    (root / "class0" / "zzz.png").symlink_to(root / "nowhere.png")
    images = list_images(root)
    assert images.classes == ("class0", "class1")
    with pytest.raises(ImageIOError, match=r"zzz\.png cannot be read"):
        images.image(2)


def test_a_link_to_itself_is_reported_when_it_is_read(make_folder):
    root = make_folder(train=2) / "train"
    (root / "class0" / "loop.png").symlink_to("loop.png")
    images = list_images(root)
    assert images.paths[2] == "class0/loop.png"
    with pytest.raises(ImageIOError, match=r"loop\.png cannot be read: Too many levels"):
        images.image(2)


def test_class_names_may_contain_spaces(make_folder, tmp_path):
    root = make_folder(classes=2, train=2) / "train"
    (root / "class1").rename(root / "great white shark")
    names = tmp_path / "names.txt"
    names.write_text("great white shark\n\n")
    assert list_images(root, classes_file=names).classes == ("great white shark",)


def test_other_file_types_are_counted_and_listed(make_folder):
    root = make_folder(train=2) / "train"
    (root / "class1" / "dance.gif").write_bytes(b"GIF89a")
    (root / "class1" / "notes.txt").write_text("x")
    (root / "class1" / ".DS_Store").write_text("x")
    images = list_images(root)
    assert images.ignored == ("class1/dance.gif", "class1/notes.txt")
    assert "files ignored because of their suffix: 2" in images.ignored_files()
    assert "1 x .gif" in images.ignored_files()
    assert images.subset([0, 1]).ignored == images.ignored


def test_a_folder_with_only_gifs_is_rejected_with_an_example(tmp_path):
    (tmp_path / "dance.gif").write_bytes(b"GIF89a")
    with pytest.raises(
        UserError, match=r"contains no images.*only 1 other files, such as dance\.gif"
    ):
        list_images(tmp_path)
