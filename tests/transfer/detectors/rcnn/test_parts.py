"""Norms, pooling, masks and the whole detector on values that can be computed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from msbreg.run.errors import UserError
from tests.transfer.detectors.cases import batch_of, config_of, sample_of
from transfer.detectors.rcnn import Detections, build_model
from transfer.detectors.rcnn.branches import draw, mask_loss, mask_targets, paste, rings_in_box
from transfer.detectors.rcnn.layers import FrozenBatchNorm, freeze
from transfer.detectors.rcnn.model import restore
from transfer.detectors.rcnn.regions import RegionPooler

# ---- Norms.


def norm_with_statistics():
    norm = nn.BatchNorm2d(3)
    generator = torch.Generator().manual_seed(0)
    for value in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        value.copy_(torch.rand(3, generator=generator) + 0.5)
    return norm


@pytest.mark.parametrize("needs_gradient", [False, True])
def test_a_frozen_norm_is_batch_norm_in_eval_mode(needs_gradient):
    norm = norm_with_statistics()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    expected = norm.eval()(x)
    frozen = freeze(norm_with_statistics())
    assert isinstance(frozen, FrozenBatchNorm)
    found = frozen(x.requires_grad_(needs_gradient))
    assert torch.allclose(found, expected, atol=1e-6)
    assert needs_gradient or torch.equal(found, expected)
    assert found.requires_grad == needs_gradient
    assert not list(frozen.parameters())


def test_a_fresh_frozen_norm_is_the_identity():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(FrozenBatchNorm(3)(x), x, atol=1e-6)


def test_freezing_stops_at_the_configured_stage():
    model = build_model(config_of("fpn-r18-freeze-bn"))  # FREEZE_AT 3: stem, res2 and res3
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    below = {name for name in trained if ".stem." in name or ".res2." in name or ".res3." in name}
    assert not below
    assert any(".res4." in name for name in trained)
    kinds = {type(m) for m in model.backbone.bottom_up.res3.modules()}
    assert FrozenBatchNorm in kinds
    assert nn.SyncBatchNorm not in kinds


# ---- Pooling.


def test_pooling_a_linear_ramp_gives_the_centers_of_the_bins():
    x = torch.arange(32.0).expand(1, 1, 32, 32) * 4 + 2  # stride 4: value = x at a pixel's center
    pooler = RegionPooler(4, [4], 0, aligned=True)
    pooled = pooler([x], [torch.tensor([[20.0, 20, 52, 84]])])
    assert torch.allclose(pooled[0, 0, 0], torch.tensor([24.0, 32, 40, 48]))


@pytest.mark.parametrize(
    ("side", "level"), [(10, 0), (111, 0), (112, 1), (223, 1), (224, 2), (900, 3)]
)
def test_a_region_is_pooled_from_the_level_of_its_size(side, level):
    sides = [1024 // stride for stride in (4, 8, 16, 32)]
    features = [torch.full((1, 1, n, n), float(i)) for i, n in enumerate(sides)]
    pooler = RegionPooler(2, [4, 8, 16, 32], 0, aligned=True)
    pooled = pooler(features, [torch.tensor([[10.0, 10, 10 + side, 10 + side]])])
    assert (pooled == level).all()


def test_regions_of_several_images_read_their_own_image():
    x = torch.tensor([1.0, 2, 3]).view(3, 1, 1, 1).expand(3, 1, 8, 8)
    box = torch.tensor([[4.0, 4, 20, 20]])
    pooled = RegionPooler(2, [4], 0, aligned=True)([x], [box, box[:0], box])
    assert pooled[:, 0, 0, 0].tolist() == [1, 3]


# ---- Masks.


SQUARE = np.array([10.0, 10, 20, 10, 20, 20, 10, 20])


def test_a_polygon_is_rasterized_in_the_grid_of_its_box():
    box = np.array([10, 0, 30, 20], dtype=np.float32)
    (mask,) = draw([rings_in_box([SQUARE], box, 4)], 4)
    assert mask.astype(int).tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_rings_are_merged_and_a_box_without_area_is_accepted():
    other = SQUARE + 10
    (mask,) = draw([rings_in_box([SQUARE, other], np.array([10, 10, 30, 30], np.float32), 4)], 4)
    assert mask.sum() == 8
    rings_in_box([SQUARE], np.array([10, 10, 10, 10], np.float32), 4)


def test_mask_targets_from_bitmasks_equal_those_from_polygons():
    bitmap = torch.zeros(1, 40, 40, dtype=torch.bool)
    bitmap[:, 10:20, 10:20] = True
    boxes = torch.tensor([[10.0, 0, 30, 20], [5, 5, 25, 25]])
    matched = torch.zeros(2, dtype=torch.int64)
    from_bitmap = mask_targets(None, bitmap, matched, boxes, 4)
    from_polygon = mask_targets([[SQUARE]], None, matched, boxes, 4)
    assert torch.equal(from_bitmap, from_polygon)


def test_the_mask_loss_depends_on_the_true_class_only():
    logits = torch.zeros(2, 3, 2, 2)
    logits[0, 1] = 50.0
    logits[1, 2] = -50.0
    targets = torch.stack([torch.ones(2, 2), torch.zeros(2, 2)]).bool()
    assert mask_loss(logits, torch.tensor([1, 2]), targets) == pytest.approx(0, abs=1e-6)
    assert mask_loss(logits, torch.tensor([0, 0]), targets) == pytest.approx(math.log(2))


def test_a_pasted_mask_fills_exactly_its_box():
    box = torch.tensor([[4.0, 2.0, 12.0, 6.0]])
    pasted = paste(torch.ones(1, 1, 28, 28), box, (10, 16))
    wanted = torch.zeros(10, 16, dtype=torch.bool)
    wanted[2:6, 4:12] = True
    assert torch.equal(pasted[0], wanted)


def test_half_a_mask_is_pasted_to_half_the_box():
    mask = torch.zeros(1, 1, 28, 28)
    mask[..., :14] = 1.0  # the left half
    pasted = paste(mask, torch.tensor([[0.0, 0, 8, 8]]), (8, 8))
    assert pasted[0, :, :4].all()
    assert not pasted[0, :, 4:].any()


# ---- The whole.


def test_detections_are_scaled_clipped_and_dropped_when_empty():
    config = config_of("fpn-r18-mask")
    sample = sample_of(config, seed=0, height=96, width=112, objects=1, scale=2.0)
    boxes = torch.tensor([[1.0, 2, 50, 60], [50, 50, 200, 90], [120, 10, 130, 20]])
    found = Detections(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 2, 3]))
    restored = restore(found, torch.ones(3, 1, 4, 4), (96, 112), sample)
    assert restored.boxes.tolist() == [[2, 4, 100, 120], [100, 100, 224, 180]]
    assert restored.labels.tolist() == [1, 2]
    assert restored.masks.shape == (2, 192, 224)


def test_images_are_normalized_and_zero_padded_to_the_divisor():
    config = config_of("fpn-r18-mask")
    images, sizes = build_model(config).prepare(batch_of(config))
    assert images.shape == (2, 3, 128, 160)
    assert sizes == [(96, 144), (128, 112)]
    assert not images[0, :, 96:].any()
    assert not images[1, :, :, 112:].any()
    first = batch_of(config)[0].image[:, 0, 0].float()
    mean, deviation = (torch.tensor(config.MODEL[k]) for k in ("PIXEL_MEAN", "PIXEL_STD"))
    assert torch.equal(images[0, :, 0, 0], (first - mean) / deviation)


def test_c4_pads_to_the_largest_image_only():
    config = config_of("c4-r18-mask")
    images, _ = build_model(config).prepare(batch_of(config))
    assert images.shape == (2, 3, 128, 144)


def test_a_model_with_masks_requires_samples_with_masks():
    config = config_of("fpn-r18-mask")
    boxes_only = batch_of(config_of("fpn-r18-boxes"))
    with pytest.raises(UserError, match=r"scene 0 has no masks.*MODEL.MASK_ON"):
        build_model(config).train()(boxes_only)


def test_predictions_that_are_not_finite_stop_training():
    config = config_of("fpn-r18-boxes")
    model = build_model(config).train()
    nn.init.constant_(model.proposal_generator.rpn_head.anchor_deltas.bias, math.nan)
    with pytest.raises(FloatingPointError, match="boxes or scores that are not finite"):
        model(batch_of(config))


def test_the_same_seed_gives_the_same_model_and_losses():
    config = config_of("fpn-r18-boxes")
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        found.append(build_model(config).train()(batch_of(config)))
    assert {k: v.item() for k, v in found[0].items()} == {k: v.item() for k, v in found[1].items()}
