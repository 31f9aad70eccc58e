"""Loading weights into a detector: what is loaded, what keeps its initial values, what is rejected."""

import pytest
import torch

from msbreg.backbones.resnet import build_backbone
from msbreg.checkpoints.layouts.names import detectron2, to_dialect
from msbreg.run.errors import UserError
from tests.transfer.detectors.cases import NARROW, config_of
from transfer.detectors.rcnn import build_model
from transfer.detectors.rcnn.weights import is_detector, place_backbone, place_detector


def state_of(arch, *, seed=0):
    """A backbone with Detectron2's names; all tensors differ from initial ones."""
    state = build_backbone(arch, initialize=False).state_dict()
    generator = torch.Generator().manual_seed(seed)
    for value in state.values():
        if value.is_floating_point():
            value.uniform_(2, 3, generator=generator)
        else:
            value.fill_(7)
    return to_dialect(state, detectron2)


def place_of(name, *, c4):
    if not c4:
        return f"backbone.bottom_up.{name}"
    return f"roi_heads.{name}" if name.startswith("res5") else f"backbone.{name}"


@pytest.mark.parametrize(
    ("case", "arch", "overrides"),
    [
        ("c4-extra-norm", "resnet50", []),
        ("fpn-r50-mask-4conv1fc", "resnet50", []),
        ("fpn-r18-mask", "resnet18", []),
        ("fpn-r18-mask", "resnet18-narrow", NARROW),
        ("fpn-r50-mask-4conv1fc", "resnet101", ["MODEL.RESNETS.DEPTH", 101]),
        (
            "fpn-r50-mask-4conv1fc",
            "wide_resnet50_2",
            ["MODEL.RESNETS.WIDTH_PER_GROUP", 128],
        ),
    ],
)
def test_every_tensor_of_a_backbone_is_loaded(case, arch, overrides):
    model = build_model(config_of(case, *overrides))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = state_of(arch)
    loaded = place_backbone(model, state, "file.pth")
    after = model.state_dict()
    places = {place_of(name, c4=case.startswith("c4")): name for name in state}
    for key, value in after.items():
        expected = state[places[key]] if key in places else before[key]
        assert torch.equal(value, expected), key
    assert loaded.taken == len(state)
    assert not loaded.left_out
    fresh = {key for keys in loaded.fresh.values() for key in keys}
    assert fresh == set(after) - set(places)


def test_fresh_parts_are_listed_by_reason():
    loaded = place_backbone(build_model(config_of("c4-extra-norm")), state_of("resnet50"), "a.pth")
    reason = next(why for why, keys in loaded.fresh.items() if "roi_heads.res5.norm.bias" in keys)
    assert "extra norm" in reason


def test_frozen_norms_have_no_counters():
    loaded = place_backbone(
        build_model(config_of("fpn-r50-frozen-bgr")), state_of("resnet50"), "a.pth"
    )
    (names,) = loaded.left_out.values()
    assert all(name.endswith("num_batches_tracked") for name in names)
    assert len(names) == 53
    assert loaded.taken == 265


def test_the_whole_c4_head_of_a_shallow_network_keeps_its_initial_weights():
    model = build_model(config_of("c4-r18-mask"))
    before = {k: v.clone() for k, v in model.roi_heads.res5.state_dict().items()}
    loaded = place_backbone(model, state_of("resnet18"), "a.pth")
    (names,) = loaded.left_out.values()
    assert all(name.startswith("res5.") for name in names)
    for key, value in model.roi_heads.res5.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("res3.0.conv1.weight"), ["missing", "backbone.bottom_up.res3.0.conv1"]),
        (lambda s: s.update({"fc.weight": torch.zeros(2)}), ["unexpected", "fc.weight"]),
        (lambda s: s.update({"stem.conv1.weight": torch.zeros(2)}), ["wrong shape", "(2,)"]),
        (lambda s: s["res2.0.conv1.weight"].fill_(torch.nan), ["not finite", "res2.0.conv1"]),
    ],
)
def test_mismatched_tensors_are_listed(change, words):
    model = build_model(config_of("fpn-r18-mask"))
    state = state_of("resnet18")
    change(state)
    with pytest.raises(UserError) as caught:
        place_backbone(model, state, "file.pth")
    for word in [*words, "file.pth"]:
        assert word in str(caught.value)


def test_a_different_backbone_is_rejected():
    with pytest.raises(UserError, match="wrong shape"):
        place_backbone(build_model(config_of("fpn-r18-mask")), state_of("resnet50"), "a.pth")


def test_a_whole_detector_is_loaded_unchanged():
    config = config_of("fpn-r18-mask")
    state = build_model(config).state_dict()
    other = build_model(config)
    loaded = place_detector(other, config, state, "a.pth")
    assert loaded.taken == len(state)
    assert all(torch.equal(value, state[key]) for key, value in other.state_dict().items())
    assert is_detector(state)
    assert not is_detector(state_of("resnet18"))


def test_obsolete_entries_of_old_detectron2_checkpoints_are_left_out():
    config = config_of("fpn-r50-frozen-bgr")
    model = build_model(config)
    state = model.state_dict() | {
        "pixel_mean": torch.tensor(config.MODEL.PIXEL_MEAN).view(3, 1, 1),
        "pixel_std": torch.tensor(config.MODEL.PIXEL_STD).view(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
        "backbone.bottom_up.stem.conv1.norm.num_batches_tracked": torch.tensor(3),
    }
    # BatchNorm frozen by FREEZE_AT has counters; files of Detectron2's model zoo do not.
    loaded = place_detector(model, config, state, "a.pth")
    assert sum(map(len, loaded.left_out.values())) == 4


def test_counters_that_are_missing_in_a_file_are_unchanged():
    config = config_of("fpn-r18-mask")
    model = build_model(config)
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("tracked")}
    loaded = place_detector(model, config, state, "a.pth")
    assert loaded.taken == len(state)


def test_a_detector_with_another_normalization_is_rejected_with_the_key_to_set():
    config = config_of("fpn-r18-mask")
    model = build_model(config)
    state = model.state_dict() | {"pixel_std": torch.ones(3, 1, 1)}
    with pytest.raises(UserError, match=r"MODEL.PIXEL_STD \[1.0, 1.0, 1.0\]"):
        place_detector(model, config, state, "a.pth")


def test_a_detector_with_another_config_is_rejected():
    config = config_of("fpn-r18-mask")
    state = build_model(config).state_dict()
    other = config_of("fpn-r18-mask", "MODEL.ROI_HEADS.NUM_CLASSES", 6)
    with pytest.raises(UserError, match="wrong shape"):
        place_detector(build_model(other), other, state, "a.pth")
