"""Invalid input and failing runs give one message and an exit code, and lose no checkpoint."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from msbreg.checkpoints.load import save_checkpoint
from msbreg.data.catalog import load_scenes
from msbreg.run.errors import exit_codes
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.transfer.boxes_data import CARDS, make_voc, tiny_card
from transfer import detection
from transfer.detectors.detection_config import Config
from transfer.detectors.detector_training import read_checkpoint
from transfer.detectors.engine import choose
from transfer.detectors.rcnn.model import RCNN

FIX = "Fix it or remove it from the data set, then run the same command again."
NOTHING_WRONG = 0


def start(card: Path, *words: str, checkpoint: str | Path = "random") -> int:
    """Run the script in this process and return its exit code; capsys captures its messages."""
    options = f"--config {card} --checkpoint {checkpoint} --engine torchvision --device cpu"
    options = [*options.split(), "--output", str(card.parent / "out"), *words]
    try:
        with exit_codes():
            detection.run(*parse(Config, options, pairs="overrides"))
    except SystemExit as end:
        return int(end.code or 0)
    return NOTHING_WRONG


@pytest.fixture
def voc(tmp_path) -> Path:
    """The folder of a VOC data set; its card is ``tiny.yaml`` next to it."""
    root = make_voc(tmp_path / "data")
    tiny_card(tmp_path, root)
    (root / "VOC2007" / "classes.txt").write_text("blue\nred\n")
    return root / "VOC2007"


@pytest.fixture
def coco(tmp_path) -> Path:
    """The JSON of the same data set in COCO layout with masks; its card is ``coco.yaml`` next to it."""
    root = make_voc(tmp_path / "data")
    content = {"categories": [{"id": 3, "name": "blue"}, {"id": 9, "name": "red"}]}
    for split in ("trainval", "test"):
        images, annotations = [], []
        for number, scene in enumerate(load_scenes(f"voc:{root}:{split}").scenes, 1):
            size = {"height": scene.height, "width": scene.width}
            images.append({"id": number, "file_name": scene.file.name} | size)
            for left, top, right, bottom in (instance.box for instance in scene.instances):
                box = [left, top, right - left, bottom - top]
                ring = [left, top, right, top, right, bottom, left, bottom]
                about = {"image_id": number, "category_id": 3, "segmentation": [ring], "bbox": box}
                annotations.append({"id": len(annotations) + 1} | about)
        content |= {"images": images, "annotations": annotations}
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    names = {
        split: f"('coco:{tmp_path}/{split}.json:{root}/VOC2007/JPEGImages',)"
        for split in ("trainval", "test")
    }
    (tmp_path / "coco.yaml").write_text(
        f"_BASE_: {CARDS / 'digits_coco_fpn.yaml'}\n"
        f"DATASETS:\n  TRAIN: {names['trainval']}\n  TEST: {names['test']}\n"
        "MODEL:\n  ROI_HEADS:\n    NUM_CLASSES: 2\nINPUT:\n  MASK_FORMAT: polygon\n"
    )
    return tmp_path / "trainval.json"


def failed(card: Path, capsys, code: int, *words: str, **options) -> str:
    """Check that a run exits with this code and one message, which the record also has; return it."""
    capsys.readouterr()
    assert start(card, *words, **options) == code
    output = capsys.readouterr().err
    assert output.count("error: ") == 1
    assert "Traceback" not in output
    message = output.partition("error: ")[2].rstrip("\n")
    record = read_record(card.parent / "out")
    if record is None:  # the run wrote nothing, so its folder was removed
        assert code == 2
        assert not (card.parent / "out").exists()
    else:
        assert (record["status"], record["error"]) == ("failed", message)
    return message


def rewritten(pattern: str, replacement: str):
    def change(voc: Path) -> None:
        file = voc / "Annotations" / "000003.xml"
        before = file.read_text()
        after = re.sub(pattern, replacement, before, count=1)
        assert after != before
        file.write_text(after)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rewritten(r"<xmax>\d+", "<xmax>nan"), r"000003\.xml: object 1 \(\w+\): .* is not finite"),
        (
            rewritten("<name>(red|blue)", "<name>gren"),
            r"object 1 \(gren\): unknown class; expected one of the 2 classes: blue, red",
        ),
        (rewritten(r"<width>\d+", "<width>77"), r"000003\.jpg has .*000003\.xml gives 77 x"),
        (rewritten("</annotation>", ""), r"000003\.xml:1 is malformed XML"),
        (lambda voc: (voc / "Annotations/000003.xml").unlink(), r"000003\.xml does not exist"),
        (
            lambda voc: (voc / "JPEGImages/000003.jpg").unlink(),
            r"missing images: .*the first: .*000003\.jpg",
        ),
        (
            lambda voc: (voc / "JPEGImages/000003.jpg").write_bytes(b""),
            "its 0 bytes are not in a known",
        ),
    ],
)
def test_invalid_voc_annotations_exit_with_code_2(voc, capsys, change, words):
    change(voc)
    message = failed(voc.parents[1] / "tiny.yaml", capsys, 2)
    assert re.search(words, message)
    assert message.endswith(FIX)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [5, 5, 300]}, "expected 4 numbers x, y, width, height"),
        ({"id": 1}, "annotation id 1 occurs twice"),
        ({"category_id": 4}, "category_id 4 is unknown; expected one of the 2 categories: 3, 9"),
        ({"segmentation": {"size": [1, 1], "counts": "01"}}, r"run lengths have size \[1, 1\]"),
        ({"segmentation": [["a"] * 6]}, "polygon 1 is not a list of numbers"),
    ],
)
def test_invalid_coco_annotations_exit_with_code_2(coco, capsys, change, words):
    content = json.loads(coco.read_text())
    content["annotations"][2] |= change
    coco.write_text(json.dumps(content))
    message = failed(coco.parent / "coco.yaml", capsys, 2)
    assert message.startswith(f"{coco}: annotation id ")
    assert re.search(words, message)
    assert message.endswith(FIX)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"images": [', "trainval.json is malformed JSON"),
        ({"images": [], "annotations": []}, "lists no images"),
        ({"annotations": []}, "has an object that is not a crowd"),
    ],
)
def test_empty_annotation_files_exit_with_code_2(coco, capsys, content, words):
    if isinstance(content, dict):
        content = json.dumps(json.loads(coco.read_text()) | content)
    coco.write_text(content)
    assert words in failed(coco.parent / "coco.yaml", capsys, 2)


def test_unusual_annotations_are_accepted_and_recorded(coco):
    content = json.loads(coco.read_text())
    content["annotations"][0] |= {"bbox": [-50, 5, 300, 10]}
    content["annotations"][1] |= {"segmentation": [[1, 2, 3, 4]]}
    content["annotations"][2] |= {"bbox": [3, 5, 9, 0], "segmentation": [[3, 5, 12, 5, 3, 5]]}
    content["annotations"][3] |= {"image_id": 4711}
    coco.write_text(json.dumps(content))
    settings = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()", "TEST.PRECISE_BN.ENABLED", "False"]
    assert start(coco.parent / "coco.yaml", *settings) == NOTHING_WRONG
    record = read_record(coco.parent / "out")
    assert record["data"]["train"]["oddities"] == {
        "empty_box": 1,
        "outside_box": 1,
        "short_ring": 1,
        "no_ring": 1,
        "other_image": 1,
    }
    assert any("1 boxes without width or height" in warning for warning in record["warnings"])


def test_strict_data_rejects_unusual_annotations_with_code_2(coco, capsys):
    content = json.loads(coco.read_text())
    content["annotations"][0] |= {"bbox": [-50, 5, 300, 10]}
    coco.write_text(json.dumps(content))
    assert start(coco.parent / "coco.yaml", "--strict-data") == 2
    assert "boxes that extend beyond their image (--strict-data)" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["000003.jpg", "000012.jpg"], ids=["training", "test"])
def test_a_truncated_image_is_named_and_the_run_continues_once_it_is_fixed(
    voc, capsys, name, workers
):
    file, card = voc / "JPEGImages" / name, voc.parents[1] / "tiny.yaml"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    words = ["--workers", str(workers), "SOLVER.CHECKPOINT_PERIOD", "1"]
    words += ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)"]
    message = failed(card, capsys, 2, *words)
    assert message.startswith(f"{file} cannot be decoded: image file is truncated")
    assert message.endswith("Fix or replace the file, then run the same command again.")
    file.write_bytes(whole)
    assert start(card, *words) == NOTHING_WRONG
    assert "continuing after iteration" in capsys.readouterr().err


def finite(checkpoint: Path) -> bool:
    saved = read_checkpoint(checkpoint)["model"].values()
    return all(value.isfinite().all() for value in saved if value.is_floating_point())


@pytest.mark.parametrize("more", [(), ("--accumulate", "2"), ("--amp", "bf16")])
def test_a_run_that_diverges_keeps_its_last_finite_checkpoint(voc, capsys, more):
    card = voc.parents[1] / "tiny.yaml"
    checkpoint = card.parent / "out" / "checkpoint.pth"
    words = ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.WARMUP_ITERS", "6", "SOLVER.BASE_LR"]
    message = failed(card, capsys, 1, *more, *words, "1e6")
    match = re.search(r"diverged at step (\d+): (?s:.*) after step (\d+)\.$", message)
    at, kept = match.groups()
    assert int(kept) <= int(at)
    assert read_checkpoint(checkpoint)["iteration"] == int(kept) > 0
    assert finite(checkpoint)
    before = checkpoint.read_bytes()
    assert start(card, *more, *words, "0.01") == 2
    assert (
        "unfinished run with other settings: yaml.SOLVER.BASE_LR = 0.01" in capsys.readouterr().err
    )
    assert checkpoint.read_bytes() == before


def test_a_truncated_checkpoint_of_an_interrupted_run_is_named(voc, capsys):
    card = voc.parents[1] / "tiny.yaml"
    words = ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.BASE_LR", "1e6"]
    failed(card, capsys, 1, *words)
    checkpoint = card.parent / "out" / "checkpoint.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    message = failed(card, capsys, 2, *words)
    assert message.startswith(f"{checkpoint} (1000 bytes) cannot be loaded: it is truncated")
    assert message.endswith("Remove the file to start from the beginning.")
    checkpoint.unlink()
    failed(card, capsys, 1, *words)
    assert finite(checkpoint)


def test_a_diverged_detector_gets_no_score(voc, capsys):
    card = voc.parents[1] / "tiny.yaml"
    assert start(card) == NOTHING_WRONG
    content = read_checkpoint(card.parent / "out" / "checkpoint.pth")
    del content["schema"]
    content["model"]["roi_heads.box_predictor.cls_score.weight"] *= 1e38
    save_checkpoint(card.parent / "large.pth", content)
    (card.parent / "out").rename(card.parent / "trained")
    message = failed(card, capsys, 1, "--eval-only", checkpoint=card.parent / "large.pth")
    assert "scores or boxes for image '000010'" in message
    assert not (card.parent / "out" / "predictions.npz").exists()


class Hungry(RCNN):
    """Runs out of memory at its third training batch, or at the first test image."""

    batches = 0
    hungry_in_testing = False

    def forward(self, samples):
        self.batches += self.training
        if (self.hungry_in_testing and not self.training) or self.batches == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(samples)


@pytest.mark.parametrize(
    ("in_testing", "words", "saved"),
    [
        (False, r"training on 2 images at a time(.|\n)*--accumulate 2 (.|\n)*--amp bf16", 2),
        (True, r"evaluating a single image(.|\n)*MIN_SIZE_TEST(.|\n)*--eval-only", 1),
    ],
)
def test_running_out_of_memory_gives_advice(voc, capsys, monkeypatch, in_testing, words, saved):
    def hungry(settings):
        detector = Hungry(settings)
        detector.hungry_in_testing = in_testing
        return detector

    engine = dataclasses.replace(choose("torchvision"), build=hungry)
    monkeypatch.setattr(detection, "choose", lambda name: engine)
    card = voc.parents[1] / "tiny.yaml"
    periods = [
        "SOLVER.CHECKPOINT_PERIOD",
        "1",
        "TEST.PRECISE_BN.ENABLED",
        "False",
        "TEST.EVAL_PERIOD",
    ]
    message = failed(card, capsys, 1, *periods, "1" if in_testing else "0")
    assert re.search(words, message)
    assert "CUDA out of memory" in message
    assert message.endswith(f"checkpoint.pth contains the state after step {saved}.")
    assert "traceback" in read_record(card.parent / "out")
