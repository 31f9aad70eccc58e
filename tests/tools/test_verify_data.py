"""tools/verify_data.py on a user's own data."""

import json
import shutil
import sys

import cv2
import numpy as np
import pytest
from PIL import Image

from msbreg.data.decoding import read_label_map
from msbreg.data.sources import open_source
from msbreg.run.record import read_record
from tests.msbreg.data.annotated_folders import shared
from tests.msbreg.data.classification.fine_grained_trees import FINE_GRAINED_TREES
from tests.msbreg.data.classification.published_trees import (
    TREES,
    imagenet_tree,
    inaturalist18_tree,
    places205_tree,
    stl10_tree,
)
from tests.msbreg.data.classification.variant_trees import VARIANT_TREES
from tests.msbreg.data.segmentation.map_trees import cityscapes_tree, folders_tree, save_map
from tests.transfer.boxes_data import make_voc
from tests.transfer.keypoints_data import make_keypoints
from tools import verify_data
from transfer import knn


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


def test_keypoints_and_lvis_are_checked(monkeypatch, capsys, tmp_path):
    root = make_keypoints(tmp_path)
    code, output = check(monkeypatch, capsys, "coco", root)
    assert code == 0, output
    assert "person_keypoints_val2017: person 6" in output
    monkeypatch.chdir(root)
    code, output = check(monkeypatch, capsys, "lvis:lvis/lvis_v1_val.json:coco")
    assert code == 0, output


# ---- Published layouts


WRITERS = TREES | {
    name: write for name, (write, *_) in (FINE_GRAINED_TREES | VARIANT_TREES).items()
}


@pytest.mark.parametrize("layout", sorted(WRITERS))
def test_every_published_layout_is_recognized_and_checked(layout, tmp_path, monkeypatch, capsys):
    if layout == "parquet":
        pytest.importorskip("pyarrow", reason="pyarrow, the extra hub, is not installed")
    root = tmp_path / "data"
    WRITERS[layout](root)
    for arguments in ([root], [layout, root], ["--data", f"{layout}:{root}"]):
        passport = tmp_path / "passport.json"
        code, output = check(monkeypatch, capsys, *arguments, "--passport", passport)
        assert code == 0, output
        splits = json.loads(passport.read_text())["splits"]
        assert {split["layout"] for split in splits} == {layout}
        for split in splits:
            images = open_source(f"{layout}:{root}", split["name"])
            assert split["fingerprint"] == images.fingerprint
            assert split["images"] == len(images)
            assert split["classes"] == list(images.classes)
            assert sum(split["labels"].values()) == (len(images) if images.classes else 0)


def test_counts_other_than_the_published_ones_are_warnings(tmp_path, monkeypatch, capsys):
    stl10_tree(tmp_path)
    code, output = check(monkeypatch, capsys, "stl10", tmp_path)
    assert code == 0
    assert "warning: 20 images; the published data set has 5,000" in output
    assert "warning: 2 to 2 images per class; the published data set has 500 to 500" in output


def test_the_passport_has_the_fingerprint_that_a_record_cites(tmp_path, monkeypatch, capsys):
    stl10_tree(tmp_path / "data")
    check(monkeypatch, capsys, "stl10", tmp_path / "data", "--passport", tmp_path / "stl10.json")
    config = knn.Config(
        checkpoint="random",
        arch="resnet18-tiny",
        data=f"stl10:{tmp_path / 'data'}",
        val_split="test",
        output=tmp_path / "run",
        cache=tmp_path / "cache",
        device="cpu",
        workers=1,
        k=(3,),
    )
    knn.run(config)
    cited = {name: s["fingerprint"] for name, s in read_record(tmp_path / "run")["data"].items()}
    splits = json.loads((tmp_path / "stl10.json").read_text())["splits"]
    (warning,) = read_record(tmp_path / "run")["warnings"]
    assert warning.startswith(
        "NOT THE PUBLISHED DATA SET: train: published count 5,000, found 20; "
        "test: published count 8,000, found 10. "
    )
    assert read_record(tmp_path / "run")["data"]["test"]["published_images"] == 8_000
    assert cited.items() <= {s["name"]: s["fingerprint"] for s in splits}.items()
    assert set(cited) == {"train", "test"}


def test_a_copy_in_another_format_is_found_by_its_pixels(make_folder, monkeypatch, capsys):
    root = make_folder()
    image = cv2.imread(str(root / "train" / "class0" / "003.png"))
    cv2.imwrite(str(root / "val" / "class1" / "other.bmp"), image)
    code, output = check(monkeypatch, capsys, root)
    assert code == 1
    pair = f"{root / 'val/class1/other.bmp'} = {root / 'train/class0/003.png'}"
    assert f"copies of images in train: 1: {pair}" in output


def test_at_most_three_pairs_of_copies_are_named(make_folder, monkeypatch, capsys):
    root = make_folder()
    for index in range(4):
        name = f"class0/{index:03d}.png"
        shutil.copy(root / "train" / name, root / "val" / name)
    _, output = check(monkeypatch, capsys, root)
    assert "copies of images in train: 4: " in output
    assert f"{root / 'val/class0/002.png'} = {root / 'train/class0/002.png'}, ..." in output


def test_few_copies_are_a_warning_as_in_the_protocols(make_folder, monkeypatch, capsys):
    root = make_folder(train=2, val=50, side=4)
    shutil.copy(root / "train" / "class0" / "000.png", root / "val" / "class0" / "000.png")
    code, output = check(monkeypatch, capsys, root)
    assert code == 0
    assert "warning: copies of images in train: 1" in output


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": 2}, "warning: for pre-training only: there is no split 'val'; kNN and linear"),
        ({"val": 2}, "warning: not for training: there is no split 'train'; kNN and linear need"),
        ({"train": 2, "test": 2}, "note: kNN and linear need --val-split test"),
        ({"training": 2, "val": 2}, "note: kNN and linear need --train-split training"),
    ],
)
def test_splits_that_the_protocols_do_not_find_are_reported(
    make_folder, monkeypatch, capsys, splits, words
):
    code, output = check(monkeypatch, capsys, make_folder(**splits))
    assert code == 0, output
    assert words in output


def test_splits_that_the_protocols_find_need_no_option(make_folder, monkeypatch, capsys):
    _, output = check(monkeypatch, capsys, make_folder())
    assert "kNN and linear" not in output


def test_missing_and_truncated_images_are_found_in_one_pass(tmp_path, monkeypatch, capsys):
    inaturalist18_tree(tmp_path)
    val = open_source(f"inaturalist18:{tmp_path}", "val")
    missing, truncated = (tmp_path / val.paths[i] for i in (0, 3))
    missing.unlink()
    truncated.write_bytes(truncated.read_bytes()[:-40])
    passport = tmp_path / "passport.json"
    code, output = check(monkeypatch, capsys, tmp_path, "--passport", passport)
    assert code == 1
    assert "1 of the 6 images in" in output
    assert f"{truncated} is not an image" in output
    train, split = json.loads(passport.read_text())["splits"]
    assert train["problem_count"] == 0
    assert split["problem_count"] == 2
    assert split["fingerprint"] is None


def test_only_the_given_splits_are_checked(tmp_path, monkeypatch, capsys):
    imagenet_tree(tmp_path)
    (tmp_path / "own.txt").write_text("n01440764_3.JPEG\nn01443537_3.JPEG\n")
    code, output = check(monkeypatch, capsys, "imagenet", tmp_path, "--splits", "train-own", "val")
    assert code == 1
    rows = [line.split()[:3] for line in output.splitlines() if line.startswith("imagenet  ")]
    assert rows == [["imagenet", "train-own", "2"], ["imagenet", "val", "6"]]
    assert "problem: class n02123045 is missing in train-own" in output


def test_a_mirror_of_places_is_checked_by_name_and_says_that_labels_may_differ(
    make_folder, monkeypatch, capsys
):
    root = make_folder()
    code, output = check(monkeypatch, capsys, "places205", root)
    assert code == 0, output
    assert "note: the labels of this Places205 mirror" in output


def test_a_tree_of_imagenet_can_be_checked_as_imagenet100_and_as_a_folder(
    tmp_path, monkeypatch, capsys
):
    imagenet_tree(tmp_path)
    (tmp_path / "imagenet100.txt").write_text("n01440764\nn01443537\n")
    code, output = check(monkeypatch, capsys, "imagenet100", tmp_path)
    assert code == 0, output
    assert "note: the 2 classes of" in output
    code, output = check(monkeypatch, capsys, "folder", tmp_path)
    assert code == 0, output
    assert [line.split()[:3] for line in output.splitlines()[1:3]] == [
        ["folder", "train", "12"],
        ["folder", "val", "6"],
    ]


def test_image_labels_of_voc_are_checked_with_and_without_boxes(tmp_path, monkeypatch, capsys):
    passport = tmp_path / "passport.json"
    voc = tmp_path / "cards"
    shutil.copytree(shared("cards-voc"), voc, copy_function=shutil.copyfile)
    for folder in (voc, *voc.rglob("*/")):
        folder.chmod(0o755)
    for boxes in (True, False):
        if not boxes:
            shutil.rmtree(voc / "VOC2007" / "Annotations")
        code, output = check(monkeypatch, capsys, "voc", voc, "--passport", passport)
        assert code == 0, output
        splits = {s["name"]: s for s in json.loads(passport.read_text())["splits"]}
        for name in ("trainval", "test"):
            cited = open_source(f"voc:{voc}", name).fingerprint
            assert splits[name]["fingerprint"] == cited
            assert (splits[name]["boxes_fingerprint"] is not None) == boxes


def test_class_files_of_another_year_and_in_another_order_are_read_as_by_the_svm(
    tmp_path, monkeypatch, capsys
):
    voc = tmp_path / "VOC2012"
    make_voc(tmp_path)
    (tmp_path / "VOC2007").rename(voc)
    main = voc / "ImageSets" / "Main"
    for split in ("trainval", "test"):
        ids = (main / f"{split}.txt").read_text().split()
        for label in ("blue", "red"):
            shown = {
                i: f"<name>{label}<" in (voc / f"Annotations/{i}.xml").read_text() for i in ids
            }
            lines = [f"{i} {1 if shown[i] else -1}" for i in reversed(ids)]
            (main / f"{label}_{split}.txt").write_text("\n".join(lines) + "\n")
    code, output = check(monkeypatch, capsys, "voc", voc)
    assert code == 0, output
    assert "  fingerprint: " in output


def test_a_wrong_layout_is_a_user_error_that_names_the_right_one(tmp_path, monkeypatch, capsys):
    places205_tree(tmp_path)
    code, output = check(monkeypatch, capsys, "inaturalist18", tmp_path)
    assert code == 2
    assert f"looks like the layout places205: use places205:{tmp_path}" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["imagnet", "."], "is not LAYOUT DATA; expected one of stl10, places205"),
        ([".", "--splits", "val"], "--splits needs the layout before the path"),
        ([".", "--passport", "none/file.json"], "the folder none does not exist"),
        ([".", "--passport", "."], "--passport . is a folder; expected the path of a json file"),
    ],
)
def test_invalid_arguments_are_reported_before_anything_is_read(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    code, output = check(monkeypatch, capsys, *arguments)
    assert code == 2
    assert words in output


def test_label_maps_of_any_layout_are_checked(tmp_path, monkeypatch, capsys):
    root = folders_tree(tmp_path / "maps")
    code, output = check(monkeypatch, capsys, root)
    assert code == 0, output
    assert "segmentation train: background 6" in output
    (root / "labels" / "val" / "val0.png").unlink()
    code, output = check(monkeypatch, capsys, "segmentation", root)
    assert code == 1
    assert "1 images without a label map: val0" in output
    code, output = check(monkeypatch, capsys, cityscapes_tree(tmp_path / "cityscapes"))
    assert code == 0, output
    assert "warning: 1 images; the published data set has 2,975" in output


def test_label_maps_with_a_single_one_of_several_classes_are_a_problem(
    tmp_path, monkeypatch, capsys
):
    root = folders_tree(tmp_path / "maps")
    for path in (root / "labels" / "val").iterdir():
        save_map(path, np.zeros_like(read_label_map(path)))
    code, output = check(monkeypatch, capsys, "segmentation", root)
    assert code == 1
    assert "are background; expected several of the 3 classes" in output
