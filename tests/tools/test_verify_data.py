"""tools/verify_data.py on a user's own data."""

import shutil
import sys

import pytest
from PIL import Image

from tests.transfer.boxes_data import make_voc
from tools import verify_data


def check(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    """Exit code and output."""
    monkeypatch.setattr(sys, "argv", ["verify_data.py", *map(str, arguments)])
    try:
        code = verify_data.main()
    except SystemExit as end:
        code = int(end.code or 0)
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_splits_classes_and_flat_folders_are_checked(make_folder, monkeypatch, capsys):
    root = make_folder()
    for folder in (root, root / "train", root / "train" / "class0"):
        code, output = check(monkeypatch, capsys, "--data", folder)
        assert code == 0, output
    (row,) = [line for line in output.splitlines() if line.startswith("folder  ")]
    assert row.split() == ["folder", "class0", "8", "0", "0", "0"]


def test_images_in_subfolders_and_with_all_suffixes_are_found(make_folder, monkeypatch, capsys):
    root = make_folder()
    deep = root / "train" / "class0" / "deep"
    deep.mkdir()
    (deep / "broken.tiff").write_bytes(b"no image")
    code, output = check(monkeypatch, capsys, "--data", root)
    assert code == 1
    assert "broken.tiff is not an image" in output


def test_a_class_that_is_missing_in_val_is_a_problem(make_folder, monkeypatch, capsys):
    root = make_folder()
    shutil.rmtree(root / "val" / "class1")
    code, output = check(monkeypatch, capsys, "--data", root)
    assert code == 1
    assert "class class1 of train is missing" in output


def test_copies_across_splits_are_a_problem_and_other_files_a_note(
    make_folder, monkeypatch, capsys
):
    root = make_folder()
    (root / "train" / "class0" / "dance.gif").write_bytes(b"GIF89a")
    assert check(monkeypatch, capsys, "--data", root)[0] == 0
    shutil.copy(root / "train" / "class0" / "000.png", root / "val" / "class0" / "x.png")
    code, output = check(monkeypatch, capsys, "--data", root)
    assert code == 1
    assert "copies of images in train: 1" in output
    assert "note: " in output
    assert "1 x .gif" in output


def test_boxes_are_checked_by_the_reader(tmp_path, monkeypatch, capsys):
    """The readers accept an image with an EXIF rotation, and a box one pixel outside."""
    root = make_voc(tmp_path / "data")
    folder = root / "VOC2007"
    file = folder / "JPEGImages" / "000003.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(file) as image:
        rotated = image.transpose(Image.Transpose.ROTATE_90)
    rotated.save(file, exif=exif)
    code, output = check(monkeypatch, capsys, "--data", root, "--layout", "voc")
    assert code == 0, output
    code, output = check(monkeypatch, capsys, "--data", f"voc:{root}:test")
    assert code == 0, output
    file.unlink()
    code, output = check(monkeypatch, capsys, "--data", root)
    assert code == 1
    assert "000003.jpg" in output


@pytest.mark.parametrize("arguments", [["--data", "/no/such"], ["--data", ".", "--layout", "coco"]])
def test_missing_data_are_a_user_error(monkeypatch, capsys, tmp_path, arguments):
    monkeypatch.chdir(tmp_path)
    code, output = check(monkeypatch, capsys, *arguments)
    assert code == 2
    assert output.startswith("error: ")
