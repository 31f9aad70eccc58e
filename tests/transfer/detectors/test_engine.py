"""The choice of the engine, and the equality of the two."""

from pathlib import Path

import pytest
import torch

from msbreg.run.errors import UserError
from msbreg.train.loop import Plan
from tests.processes import run_code
from tests.transfer.detectors.toys import fit
from transfer.detectors import detectron2_engine
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.detector_training import DetectorTraining
from transfer.detectors.engine import choose
from transfer.detectors.mapper import Sample

CARDS = Path(__file__).resolve().parents[3] / "configs"
needs_detectron2 = pytest.mark.skipif(
    not detectron2_engine.available(), reason="Detectron2 is not installed"
)
SMALL = (
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE 8 MODEL.RPN.POST_NMS_TOPK_TRAIN 20 "
    "MODEL.RPN.POST_NMS_TOPK_TEST 10 MODEL.ROI_HEADS.SCORE_THRESH_TEST 0.0 SOLVER.MAX_ITER 40 "
    "SOLVER.STEPS (30,)"
)


def samples(first: int) -> list[Sample]:
    """Two images of noise, 48 x 64 and 64 x 48, each with two bright boxes and their masks."""
    made = []
    for number, (height, width) in enumerate(((48, 64), (64, 48))):
        generator = torch.Generator().manual_seed(first * 2 + number)
        image = torch.randint(0, 150, (3, height, width), dtype=torch.uint8, generator=generator)
        corners = torch.randint(0, 24, (2, 2), generator=generator)
        boxes = torch.cat([corners, corners + 20], dim=1)
        masks = torch.zeros(2, height, width, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
            mask[y0:y1, x0 : x1 - 5] = True
            image[:, y0:y1, x0:x1] = 220
        labels = torch.randint(0, 10, (2,), generator=generator)
        made.append(
            Sample(number, image, 2 * height, 2 * width, boxes.float(), labels, bitmasks=masks)
        )
    return made


def trained(folder: Path, name: str, card: str, iterations: int, *overrides: str):
    config = read_config(CARDS / f"{card}.yaml", [*SMALL.split(), *overrides])
    engine = choose(name)
    torch.manual_seed(0)
    model = engine.build(config)
    training = DetectorTraining(model, engine.solver(config, model), torch.device("cpu"))
    (folder / name).mkdir()
    batches = (samples(i) for i in range(iterations))
    fit(training, batches, Plan(steps=iterations, row_every=20), folder / name)
    return training


@needs_detectron2
@pytest.mark.parametrize(
    ("card", "overrides"),
    [
        ("digits_coco_fpn", ()),
        ("digits_voc_c4", ("SOLVER.CLIP_GRADIENTS.ENABLED", "True")),
        ("digits_voc_c4", ("MODEL.BACKBONE.FREEZE_AT", "3", "SOLVER.BIAS_LR_FACTOR", "2.0")),
        ("digits_coco_fpn", ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR")),
    ],
    ids=["fpn", "c4 clipped", "c4 frozen", "fpn cosine"],
)
def test_steps_and_detections_of_both_engines_are_bit_for_bit_equal(tmp_path, card, overrides):
    ours = trained(tmp_path, "torchvision", card, 3, *overrides)
    theirs = trained(tmp_path, "detectron2", card, 3, *overrides)
    one, other = ours.model.state_dict(), theirs.model.state_dict()
    assert one.keys() == other.keys()
    assert not [name for name in one if not torch.equal(one[name], other[name])]
    assert ours.solver.rates(5) == theirs.solver.rates(5)
    with torch.no_grad():
        found, wanted = (state.model.eval()(samples(9)) for state in (ours, theirs))
    assert sum(len(f.scores) for f in found) > 10, "nothing is compared"
    for a, b in zip(found, wanted, strict=True):
        for field in ("boxes", "scores", "labels", "masks"):
            left, right = getattr(a, field), getattr(b, field)
            assert (left is None and right is None) or torch.equal(left, right), field


def test_torchvision_can_be_requested():
    engine = choose("torchvision")
    assert engine.described() == {"name": "torchvision", "version": engine.version}


def test_auto_skips_a_detectron2_that_cannot_be_imported(monkeypatch, caplog):
    def broken() -> str:
        raise ImportError("undefined symbol: _ZN2at")

    monkeypatch.setattr(detectron2_engine, "available", lambda: True)
    monkeypatch.setattr(detectron2_engine, "version", broken)
    assert choose("auto").name == "torchvision"
    with pytest.raises(UserError, match="cannot be imported: ImportError: undefined symbol"):
        choose("detectron2")


OLD = {
    "__init__.py": "__version__ = '0.2'",
    "config.py": "import PIL.Image\nDOWN = PIL.Image.LINEAR_OF_OLD",
}
ASK_FOR_BOTH = """
import logging, sys
for name in [name for name in sys.modules if name.split(".")[0] == "detectron2"]:
    del sys.modules[name]
sys.path.insert(0, sys.argv[1])
from msbreg.run.errors import UserError
from transfer.detectors.engine import choose

logging.basicConfig(format="warned: %(message)s")
print("auto:", choose("auto").name)
try:
    choose("detectron2")
except UserError as error:
    print("error:", error)
"""


def test_a_detectron2_that_is_too_old_for_pillow_is_skipped_with_a_warning(tmp_path):
    (tmp_path / "detectron2").mkdir()
    for name, text in OLD.items():
        (tmp_path / "detectron2" / name).write_text(text)
    code, out, err = run_code(ASK_FOR_BOTH, tmp_path)
    assert code == 0, err
    words = "cannot be imported: AttributeError: module 'PIL.Image' has no attribute"
    assert "auto: torchvision" in out
    assert f"warned: Detectron2 is installed, but {words}" in err
    assert f"error: --engine detectron2: Detectron2 is installed, but {words}" in out
    assert "--engine torchvision" in out


def test_a_missing_detectron2_is_reported(monkeypatch):
    monkeypatch.setattr(detectron2_engine, "available", lambda: False)
    assert choose("auto").name == "torchvision"
    with pytest.raises(UserError, match="not installed(.|\n)*--engine torchvision"):
        choose("detectron2")
