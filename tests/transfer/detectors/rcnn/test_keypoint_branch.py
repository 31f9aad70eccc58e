"""The parts of the keypoint branch, compared with slow twins; test_parity.py compares the whole."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.reference import keypoints as slow
from tests.transfer.detectors.cases import config_of
from transfer.detectors.rcnn.keypoint_branch import (
    KeypointHead,
    find_keypoints,
    fixed_normalizer,
    keypoint_loss,
    keypoint_targets,
    shows_keypoint,
)


def drawn(count=6, keypoints=5):
    """Boxes, and keypoints in and around them, some of them exactly on an edge."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(count, 2, generator=generator) * 40
    boxes = torch.cat((low, low + 5 + torch.rand(count, 2, generator=generator) * 30), 1)
    place = torch.rand(count, keypoints, 2, generator=generator) * 1.6 - 0.3
    points = boxes[:, None, :2] + place * (boxes[:, None, 2:] - boxes[:, None, :2])
    points[:, 0], points[:, 1] = boxes[:, 2:], boxes[:, :2]
    visibility = torch.randint(3, (count, keypoints, 1), generator=generator)
    return torch.cat((points, visibility), 2), boxes


def test_cells_equal_the_slow_twins():
    points, boxes = drawn()
    cells, valid = keypoint_targets(points, boxes, 14)
    expected = [
        [slow.cell(point, box, 14) for point in own]
        for own, box in zip(points.tolist(), boxes.tolist(), strict=True)
    ]
    assert 0 < valid.sum() < valid.numel()
    assert valid.tolist() == [[c is not None for c in row] for row in expected]
    assert cells.tolist() == [[c or 0 for c in row] for row in expected]


def test_a_box_is_used_if_a_labeled_keypoint_is_inside():
    box = torch.tensor([[10.0, 10, 20, 20]])

    def used(*points):
        return shows_keypoint(torch.tensor([points], dtype=torch.float32), box).item()

    assert used((15, 15, 1))
    assert used((20, 10, 2), (50, 50, 2))
    assert not used((15, 15, 0))
    assert not used((15, 21, 2))


def test_the_loss_is_the_mean_over_valid_keypoints_or_divided_by_a_fixed_number():
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([[1, 2, 3], [4, 5, 6]])
    valid = torch.tensor([[True, False, True], [False, False, True]])
    log = logits.flatten(2).log_softmax(2)
    own = -torch.stack([log[0, 0, 1], log[0, 2, 3], log[1, 2, 6]])
    assert keypoint_loss(logits, cells, valid, None).item() == pytest.approx(own.mean().item())
    expected = own.sum().item() / 12.0
    assert keypoint_loss(logits, cells, valid, 12.0).item() == pytest.approx(expected)


def test_without_valid_keypoints_the_loss_is_zero_and_has_a_gradient():
    logits = torch.ones(2, 3, 4, 4, requires_grad=True)
    none = torch.zeros(2, 3, dtype=torch.int64)
    keypoint_loss(logits, none, none.bool(), None).backward()
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_fixed_number_is_that_of_a_batch_of_objects_with_all_keypoints():
    key = "MODEL.ROI_KEYPOINT_HEAD.NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"
    assert fixed_normalizer(config_of("fpn-r18-keypoints"), 2) is None
    config = config_of("fpn-r18-keypoints", key, False)
    assert fixed_normalizer(config, 2) == 2 * 17 * 8 * 0.25


def test_places_and_scores_equal_the_slow_twins():
    _, boxes = drawn()
    boxes[0, 2] = boxes[0, 0] + 0.3  # narrower than a pixel
    logits = 4 * torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def resample(one, size):
        given = torch.from_numpy(one)[None, None]
        return F.interpolate(given, size, mode="bicubic", align_corners=False)[0, 0].numpy()

    expected = [
        [slow.place(one, box, resample) for one in maps]
        for maps, box in zip(logits.double().numpy(), boxes.double().numpy(), strict=True)
    ]
    # Float32, and coordinates up to 80: an error of a few units in the seventh digit.
    np.testing.assert_allclose(find_keypoints(logits, boxes).numpy(), expected, rtol=1e-5)


def test_the_map_has_four_times_the_side_of_the_features():
    config = config_of("fpn-r18-keypoints", "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [6, 4])
    assert KeypointHead(config, 8)(torch.zeros(2, 8, 14, 14)).shape == (2, 17, 56, 56)
    assert KeypointHead(config, 8)(torch.zeros(0, 8, 14, 14)).shape == (0, 17, 56, 56)
