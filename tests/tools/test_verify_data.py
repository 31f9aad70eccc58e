"""tools/verify_data.py on data of a user's own."""

import shutil
import sys

import pytest
from PIL import Image

from tests.transfer.boxes_data import make_voc
from tools import verify_data


def check(monkeypatch, capsys, *words) -> tuple[int, str]:
    """(exit code, what is printed)."""
    monkeypatch.setattr(sys, "argv", ["verify_data.py", *map(str, words)])
    try:
        code = verify_data.main()
    except SystemExit as end:
        code = int(end.code or 0)
    said = capsys.readouterr()
    return code, said.out + said.err


def test_splits_classes_and_flat_folders_are_checked(make_folder, monkeypatch, capsys):
    root = make_folder()
    for folder in (root, root / "train", root / "train" / "class0"):
        code, said = check(monkeypatch, capsys, "--data", folder)
        assert code == 0, said
    (row,) = [line for line in said.splitlines() if line.startswith("folder  ")]
    assert row.split() == ["folder", "class0", "8", "0", "0", "0"]


def test_images_in_subfolders_of_a_class_and_all_suffixes_are_seen(
    make_folder, monkeypatch, capsys
):
    root = make_folder()
    deep = root / "train" / "class0" / "deep"
    deep.mkdir()
    (deep / "broken.tiff").write_bytes(b"no image")
    code, said = check(monkeypatch, capsys, "--data", root)
    assert code == 1
    assert "broken.tiff is not an image" in said


def test_a_class_that_is_missing_in_val_is_a_problem(make_folder, monkeypatch, capsys):
    root = make_folder()
    shutil.rmtree(root / "val" / "class1")
    code, said = check(monkeypatch, capsys, "--data", root)
    assert code == 1
    assert "class class1 of train is missing" in said


def test_copies_across_splits_are_a_problem_and_other_files_a_note(
    make_folder, monkeypatch, capsys
):
    root = make_folder()
    (root / "train" / "class0" / "dance.gif").write_bytes(b"GIF89a")
    assert check(monkeypatch, capsys, "--data", root)[0] == 0
    shutil.copy(root / "train" / "class0" / "000.png", root / "val" / "class0" / "x.png")
    code, said = check(monkeypatch, capsys, "--data", root)
    assert code == 1
    assert "1 images are copies of images in train" in said
    assert "note: " in said
    assert "1 x .gif" in said


def test_boxes_are_judged_by_the_reader(tmp_path, monkeypatch, capsys):
    """An image with an EXIF rotation, and a box one pixel outside, are what the readers accept."""
    root = make_voc(tmp_path / "data")
    folder = root / "VOC2007"
    file = folder / "JPEGImages" / "000003.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(file, exif=exif)
    code, said = check(monkeypatch, capsys, "--data", root, "--layout", "voc")
    assert code == 0, said
    code, said = check(monkeypatch, capsys, "--data", f"voc:{root}:test")
    assert code == 0, said
    file.unlink()
    code, said = check(monkeypatch, capsys, "--data", root)
    assert code == 1
    assert "000003.jpg" in said


@pytest.mark.parametrize("words", [["--data", "/no/such"], ["--data", ".", "--layout", "coco"]])
def test_data_that_do_not_exist_are_a_user_error(monkeypatch, capsys, tmp_path, words):
    monkeypatch.chdir(tmp_path)
    code, said = check(monkeypatch, capsys, *words)
    assert code == 2
    assert said.startswith("error: ")
