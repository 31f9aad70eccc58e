import pytest

from msbreg.data.sources import data_root
from msbreg.data.voc import find_voc, image_labels
from msbreg.run.errors import UserError


def write(root, files, images=("a", "b")):
    main = root / "VOC2007" / "ImageSets" / "Main"
    main.mkdir(parents=True)
    (root / "VOC2007" / "JPEGImages").mkdir()
    for image in images:
        (root / "VOC2007" / "JPEGImages" / f"{image}.jpg").touch()
    for name, text in files.items():
        (main / name).write_text(text)
    return root


def test_labels_are_a_matrix_over_images_and_sorted_classes(tmp_path):
    root = write(tmp_path, {"dog_test.txt": "a  1\nb -1\n", "cat_test.txt": "a  0\nb  1\n"})
    read = image_labels(find_voc(root), "test")
    assert read.classes == ("cat", "dog")
    assert read.labels.tolist() == [[0, 1], [1, -1]]
    assert [path.name for path in read.paths] == ["a.jpg", "b.jpg"]
    assert image_labels(root / "VOC2007", "test").classes == read.classes


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "contains no files <class>_test.txt"),
        ({"dog_test.txt": ""}, "is empty"),
        (
            {"dog_test.txt": "a 1\nb\n"},
            r"dog_test.txt:2 is 'b'; expected an image id and 1, 0 or -1",
        ),
        ({"dog_test.txt": "a 2\n"}, "expected an image id and 1, 0 or -1"),
        ({"dog_test.txt": "a 1\na 1\n"}, "lists the image a a second time"),
        ({"dog_test.txt": "a 1\n", "cat_test.txt": "b 1\n"}, "list different images"),
        ({"dog_test.txt": "a 1\nz 1\n"}, "1 of the 2 images of test are missing"),
    ],
)
def test_invalid_files_are_reported(tmp_path, files, words):
    with pytest.raises(UserError, match=words):
        image_labels(find_voc(write(tmp_path, files)), "test")


def test_a_folder_in_another_layout_is_rejected(tmp_path):
    with pytest.raises(UserError, match="does not have VOC's layout"):
        find_voc(tmp_path)


def test_the_embedded_scenes_include_difficult_objects():
    read = image_labels(find_voc(data_root("digits", "voc")), "trainval")
    assert len(read.classes) == 10
    assert set(read.labels.flatten().tolist()) == {-1, 0, 1}
