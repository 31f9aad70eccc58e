"""The embedded data set, generated at one twelfth of its size."""

import contextlib
import io
import json
import os
import platform
import resource
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from msbreg.data.annotated_images import upright_size
from msbreg.data.digits import generate as digits
from msbreg.data.digits.writers import (
    COCO_IDS,
    NAMES,
    coco_segmentation,
    decode_mask,
    run_lengths,
    voc_palette,
)
from msbreg.run.errors import RunFailed, UserError
from tools import verify_data

SCALE = 1 / 12


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits.prepare_digits(tmp_path_factory.mktemp("cache"), scale=SCALE)


@pytest.fixture(scope="session")
def manifest(root: Path) -> dict:
    return json.loads((root / "digits.json").read_text())


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(root, tmp_path / "copy"))


def load_coco(root: Path, split: str):
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(root / f"coco/annotations/instances_{split}2017.json")


def voc_objects(root: Path, name: str) -> list[ET.Element]:
    return ET.parse(root / f"voc/VOC2007/Annotations/{name}.xml").findall("object")


def voc_names(root: Path, split: str) -> list[str]:
    return (root / f"voc/VOC2007/ImageSets/Main/{split}.txt").read_text().split()


def test_the_same_seed_gives_the_same_bytes(manifest: dict, tmp_path: Path) -> None:
    assert digits.generate(tmp_path, seed=0, scale=SCALE) == manifest
    assert digits.digest(tmp_path) == manifest["sha256"]


def test_another_seed_gives_different_bytes_but_the_same_partition(tmp_path: Path) -> None:
    a, b = (digits.generate(tmp_path / str(seed), seed=seed, scale=0.005) for seed in (0, 1))
    assert a["sha256"] != b["sha256"]
    assert a["partition"] == b["partition"]


def test_training_and_test_images_share_no_scan_in_any_layout(manifest: dict) -> None:
    test = set(manifest["partition"]["test"])
    assert len(test) == 360
    for layout, held_out in (("folder", "val"), ("voc", "test"), ("coco", "val")):
        scans = {split: set(rows) for split, rows in manifest["scans"][layout].items()}
        assert scans[held_out] <= test
        assert all(not rows & test for split, rows in scans.items() if split != held_out)
    assert not set(manifest["scans"]["voc"]["train"]) & set(manifest["scans"]["voc"]["val"])


def test_equally_many_scans_of_every_class_are_held_out(manifest: dict) -> None:
    labels = digits.load_material().labels
    assert set(Counter(labels[manifest["partition"]["test"]]).values()) == {36}
    partition = manifest["partition"]
    assert sorted(partition["train"] + partition["test"]) == list(range(1797))
    assert sorted(partition["fit"] + partition["val"]) == partition["train"]


def test_the_full_set_has_two_images_per_scan() -> None:
    material = digits.load_material()
    items = digits.single_digits(material, "test", seed=0, scale=1.0)
    assert Counter(item.label for item in items) == dict.fromkeys(range(10), 72)


def test_every_layout_passes_its_checks(root: Path) -> None:
    splits = verify_data.verify(str(root), "all")
    assert {split.layout for split in splits} == set(verify_data.LAYOUTS)
    assert [p for split in splits for p in split.problems] == []


def self_precision(coco, kind: str) -> float:
    """COCO AP over all sizes of the ground truth, without crowds, against itself."""
    from pycocotools.cocoeval import COCOeval

    truth = coco.loadAnns(coco.getAnnIds(iscrowd=0))
    keys = {"image_id", "category_id", "bbox"}
    found = [{key: a[key] for key in keys} | {"score": 1.0} for a in truth]
    if kind == "segm":
        for detection, annotation in zip(found, truth, strict=True):
            del detection["bbox"]
            detection["segmentation"] = coco.annToRLE(annotation)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(found), kind)
        evaluation.params.maxDets = [max(Counter(a["image_id"] for a in truth).values())]
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]
    return float(precision[precision > -1].mean())


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_the_ground_truth_scores_perfectly_with_pycocotools(
    root: Path, split: str, kind: str
) -> None:
    assert self_precision(load_coco(root, split), kind) == pytest.approx(1.0)


def test_coco_has_crowds_id_gaps_empty_images_and_all_mask_formats(root: Path) -> None:
    coco = load_coco(root, "train")
    assert tuple(sorted(coco.cats)) == COCO_IDS
    assert [coco.cats[i]["name"] for i in COCO_IDS] == list(NAMES)
    assert any(not coco.getAnnIds(image) for image in coco.imgs)
    forms = Counter(
        (a["iscrowd"], type(a["segmentation"]).__name__ == "list") for a in coco.anns.values()
    )
    assert set(forms) == {(1, False), (0, False), (0, True)}
    assert forms[0, True] > 3 * forms[0, False]
    crowds = [a for a in coco.anns.values() if a["iscrowd"]]
    assert all(isinstance(a["segmentation"]["counts"], list) for a in crowds)


def test_coco_area_and_box_match_the_decoded_mask(root: Path) -> None:
    coco = load_coco(root, "val")
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        mask = decode_mask(annotation["segmentation"], (image["height"], image["width"]))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, width, height = annotation["bbox"]
        assert annotation["area"] == mask.sum()
        assert [x, y] == [columns[0], rows[0]]
        assert [x + width, y + height] == [columns[-1] + 1, rows[-1] + 1]


def test_polygons_match_the_pixels_of_the_digit() -> None:
    scenes = digits.coco_scenes(digits.load_material(), seed=3, scale=0.05)["train"]
    for instance in (i for scene in scenes for i in scene.instances):
        decoded = decode_mask(coco_segmentation(instance), instance.mask.shape)
        iou = (decoded & instance.mask).sum() / (decoded | instance.mask).sum()
        assert iou >= 0.85


def test_run_lengths_are_in_column_major_order() -> None:
    assert run_lengths(np.array([[True, False], [True, True]])) == [0, 2, 1, 1]
    assert run_lengths(np.zeros((2, 3), bool)) == [6]


@pytest.mark.parametrize("split", ["train", "val", "trainval", "test"])
def test_voc_class_files_agree_with_the_annotations(root: Path, split: str) -> None:
    for class_name in NAMES:
        path = root / f"voc/VOC2007/ImageSets/Main/{class_name}_{split}.txt"
        rows = [line.split() for line in path.read_text().splitlines()]
        assert [name for name, _ in rows] == voc_names(root, split)
        for name, value in rows:
            found = [o for o in voc_objects(root, name) if o.findtext("name") == class_name]
            easy = [o for o in found if o.findtext("difficult") == "0"]
            assert int(value) == (1 if easy else 0 if found else -1)


def test_voc_has_difficult_and_truncated_objects(root: Path) -> None:
    objects = [o for name in voc_names(root, "trainval") for o in voc_objects(root, name)]
    for flag in ("difficult", "truncated"):
        share = np.mean([o.findtext(flag) == "1" for o in objects])
        assert 0.02 < share < 0.3
    assert {o.findtext("name") for o in objects} == set(NAMES)


def test_voc_boxes_include_the_first_and_the_last_pixel(root: Path) -> None:
    """Boxes are 1-based and inclusive: truncated digits touch 1 or the size of the image."""
    touching = set()
    for name in voc_names(root, "trainval") + voc_names(root, "test"):
        height, width = upright_size(root / f"voc/VOC2007/JPEGImages/{name}.jpg")
        ends = {"xmin": 1, "ymin": 1, "xmax": width, "ymax": height}
        for element in voc_objects(root, name):
            box = {key: int(element.findtext(f"bndbox/{key}", "")) for key in ends}
            at_end = {key for key in ends if box[key] == ends[key]}
            assert at_end or element.findtext("truncated") == "0"
            touching |= at_end
    assert touching == {"xmin", "ymin", "xmax", "ymax"}


def test_label_maps_use_the_palette_and_the_allowed_values(root: Path) -> None:
    values = set()
    for name in voc_names(root, "trainval"):
        with Image.open(root / f"voc/VOC2007/SegmentationClass/{name}.png") as image:
            assert image.mode == "P"
            assert image.getpalette() == voc_palette()
            values |= set(np.unique(np.asarray(image)).tolist())
    assert values == {*range(11), 255}


def test_the_palette_matches_the_devkit() -> None:
    assert voc_palette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
    assert voc_palette()[-3:] == [224, 224, 192]


def test_a_prepared_set_is_not_generated_again(root: Path, monkeypatch) -> None:
    monkeypatch.setattr(digits, "generate", None)
    assert digits.prepare_digits(root.parent, scale=SCALE) == root


def test_the_cache_is_taken_from_the_environment(root: Path, monkeypatch) -> None:
    monkeypatch.setenv("MSBREG_CACHE", str(root.parent))
    assert digits.prepare_digits(scale=SCALE) == root


def test_an_interrupted_generation_leaves_no_incomplete_cache(tmp_path: Path, monkeypatch) -> None:
    saved = Image.Image.save
    calls = iter(range(10))

    def save(*args, **kwargs) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        saved(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", save)
        with pytest.raises(KeyboardInterrupt):
            digits.prepare_digits(tmp_path, scale=0.005)
    assert list(tmp_path.iterdir()) == []
    assert (digits.prepare_digits(tmp_path, scale=0.005) / "digits.json").exists()


def test_only_drafts_of_killed_generations_are_removed(tmp_path: Path) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    node, random = platform.node(), "0123456789abcdef" * 2
    stale = [
        f".digits-v2-seed0-{node}-{ended.pid}-{random}.draft",  # its process has ended
        f".digits-v1-seed3-scale0.5-elsewhere-1-{random}.draft",  # an hour old
        f".digits-v2-seed0-{random}",  # an hour old, as earlier versions named it
    ]
    kept = [
        f".digits-v2-seed0-{node}-{os.getpid()}-{random}.draft",  # in progress
        f".digits-v2-seed0-elsewhere-1-{random}.draft",  # in progress on another machine
        f".digits-v2-seed1-{random}",  # new
        "digits-v2-seed7",
        ".digits-v2-seed0-notes",
    ]
    for name in stale + kept:
        (tmp_path / name).mkdir()
    for name in stale[1:]:
        os.utime(tmp_path / name, (0, 0))
    root = digits.prepare_digits(tmp_path, scale=0.005)
    assert {path.name for path in tmp_path.iterdir()} == {root.name, *kept}


def test_a_full_disk_fails_the_run_and_leaves_no_files(tmp_path: Path) -> None:
    """A limit on the file size simulates a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))
    try:
        with pytest.raises(RunFailed, match=r"the digits data set(.|\n)*Free some space, or set"):
            digits.prepare_digits(tmp_path, scale=0.005)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_faster_process_is_used(tmp_path: Path, monkeypatch) -> None:
    def rename_second(draft: Path, root: Path) -> None:
        if not root.exists():
            shutil.copytree(draft, root)
        real_rename(draft, root)

    real_rename = digits.os.rename
    monkeypatch.setattr(digits.os, "rename", rename_second)
    root = digits.prepare_digits(tmp_path, scale=0.005)
    assert list(tmp_path.iterdir()) == [root]


def test_a_folder_without_a_manifest_is_rejected_and_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / f"digits-v{digits.VERSION}-seed0").mkdir()
    with pytest.raises(UserError, match="Remove it"):
        digits.prepare_digits(tmp_path)


def test_verify_data_finds_a_truncated_image(copy: Path) -> None:
    path = next((copy / "folder/val/3").iterdir())
    path.write_bytes(path.read_bytes()[:200])
    problems = [p for s in verify_data.verify(str(copy), "folder") for p in s.problems]
    assert len(problems) == 1
    assert path.name in problems[0]


def test_verify_data_finds_odd_and_malformed_boxes_and_a_wrong_class_file(copy: Path) -> None:
    name = voc_names(copy, "test")[0]
    path = copy / f"voc/VOC2007/Annotations/{name}.xml"
    text = path.read_text()

    def problems() -> list[str]:
        return [p for s in verify_data.verify(str(copy), "voc") for p in s.problems]

    path.write_text(text.replace("<xmax>", "<xmax>9", 1))
    (split,) = [s for s in verify_data.verify(str(copy), "voc") if s.name == "test"]
    assert split.problems == []
    assert any("beyond their image" in note for note in split.notes)
    path.write_text(text.replace("<xmin>", "<xmin>x", 1))
    assert any(f"{name}.xml: object 1" in p for p in problems())
    path.write_text(text)
    sets = copy / "voc/VOC2007/ImageSets/Main/one_test.txt"
    sets.write_text(sets.read_text().replace(" -1", "  1", 1))
    (problem,) = problems()
    assert "one_test.txt says 1, the annotation says -1" in problem


def test_verify_data_rejects_a_path_without_any_layout(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no coco layout"):
        verify_data.verify(str(tmp_path), "coco")
