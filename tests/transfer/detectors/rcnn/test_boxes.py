"""Boxes, anchors, matching and sampling on values that can be computed by hand."""

import math

import pytest
import torch

from tests.transfer.detectors.cases import batch_of, changed, config_of
from transfer.detectors.rcnn import build_model
from transfer.detectors.rcnn.boxes import (
    cell_anchors,
    decode,
    encode,
    grid_anchors,
    larger_than,
    match,
    pairwise_iou,
    sample,
    smooth_l1_sum,
)
from transfer.detectors.rcnn.branches import detect
from transfer.detectors.rcnn.proposals import ProposalNetwork
from transfer.detectors.rcnn.regions import Regions
from transfer.detectors.rcnn.roi_heads import Truth, choose

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


# ---- Boxes.


def test_anchors_are_ordered_by_size_then_ratio_and_not_rounded():
    anchors = cell_anchors([32, 64], [0.5, 1.0])
    sides = anchors[:, 2:] - anchors[:, :2]
    root = math.sqrt(2)
    wanted = [[32 * root, 16 * root], [32, 32], [64 * root, 32 * root], [64, 64]]
    assert torch.allclose(sides, torch.tensor(wanted))
    assert torch.equal(anchors[:, :2], -anchors[:, 2:])


def test_a_grid_is_filled_row_by_row_at_the_stride():
    anchors = grid_anchors(torch.tensor([[-1.0, -1, 1, 1]]), 2, 3, stride=16, offset=0.5)
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centers.tolist() == [[8, 8], [24, 8], [40, 8], [8, 24], [24, 24], [40, 24]]


def test_offsets_of_a_known_pair():
    offsets = encode(torch.tensor([[0.0, 0, 10, 20]]), torch.tensor([[5.0, 0, 25, 20]]), WEIGHTS)
    assert torch.allclose(offsets, torch.tensor([[10.0, 0, 5 * math.log(2), 0]]))


def test_decoding_undoes_encoding_for_each_class():
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 6, 2, generator=generator) * 50
    first, second = (torch.cat((c, c + 1 + c.flip(1)), 1) for c in corners)
    offsets = encode(first, second, WEIGHTS)
    assert torch.allclose(decode(offsets, first, WEIGHTS), second, atol=1e-4)
    both = decode(torch.cat((offsets, offsets * 0), 1), first, WEIGHTS)
    assert torch.allclose(both[:, 4:], first, atol=1e-4)


def test_a_predicted_side_is_at_most_62_5_times_the_source():
    box = decode(torch.tensor([[0.0, 0, 1e9, 1e9]]), torch.tensor([[0.0, 0, 4, 4]]), WEIGHTS)
    assert torch.allclose(box[0, 2:] - box[0, :2], torch.tensor([250.0, 250.0]))


def test_decoding_bfloat16_offsets_is_done_in_float32():
    offsets = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).bfloat16()
    source = torch.tensor([[100.0, 100, 201, 301]])
    boxes = decode(offsets, source, WEIGHTS)
    assert boxes.dtype == torch.float32
    assert torch.equal(boxes, decode(offsets.float(), source, WEIGHTS))


def test_iou_and_its_degenerate_case():
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 5, 5]])
    wanted = torch.tensor([[1.0, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
    assert torch.allclose(pairwise_iou(boxes, boxes), wanted)


def test_both_sides_have_to_be_longer():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 0], [0, 0, 1, 9]])
    assert larger_than(boxes, 0.0).tolist() == [True, False, True]
    assert larger_than(boxes, 1.0).tolist() == [True, False, False]


def test_smooth_l1_is_quadratic_below_beta_only():
    x, zero = torch.tensor([[0.1, -2.0]]), torch.zeros(1, 2)
    assert smooth_l1_sum(x, zero, 0.0) == pytest.approx(2.1)
    assert smooth_l1_sum(x, zero, 0.5) == pytest.approx(0.5 * 0.01 / 0.5 + 2 - 0.25)


# ---- Matching and sampling.


IOU = torch.tensor([[0.1, 0.4, 0.7, 0.2], [0.2, 0.3, 0.1, 0.2]])


def test_labels_by_threshold_closed_below():
    index, labels = match(IOU, [0.3, 0.7], [0, -1, 1], low_quality=False)
    assert index.tolist() == [1, 0, 0, 0]
    assert labels.tolist() == [0, -1, 1, 0]


def test_the_best_box_of_an_object_is_positive_at_any_iou():
    index, labels = match(IOU, [0.3, 0.7], [0, -1, 1], low_quality=True)
    # Box 1 is the best of object 1 (0.3), although its own best object is 0.
    assert labels.tolist() == [0, 1, 1, 0]
    assert index[1] == 0


def test_ties_for_an_object_are_all_positive():
    iou = torch.tensor([[0.2, 0.2, 0.1]])
    assert match(iou, [0.3, 0.7], [0, -1, 1], low_quality=True)[1].tolist() == [1, 1, 0]


def test_without_objects_everything_is_background():
    index, labels = match(torch.zeros(0, 3), [0.3, 0.7], [0, -1, 1], low_quality=True)
    assert index.tolist() == [0, 0, 0]
    assert labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("objects", "background", "wanted"),
    [(20, 20, (4, 12)), (2, 20, (2, 14)), (20, 5, (4, 5)), (0, 3, (0, 3))],
)
def test_missing_objects_are_replaced_by_background_but_not_vice_versa(objects, background, wanted):
    labels = torch.cat(
        (torch.arange(objects) % 3, torch.full((background,), 3), torch.full((4,), -1))
    )
    torch.manual_seed(0)
    positive, negative = sample(labels, 16, 0.25, background=3)
    assert (len(positive), len(negative)) == wanted
    assert (labels[positive] < 3).all()
    assert (labels[negative] == 3).all()
    assert len(set(positive.tolist())) == wanted[0]


def test_regions_to_train_on_are_labeled_by_their_best_object():
    config = config_of("c4-extra-norm")
    truth = Truth(torch.tensor([[0.0, 0, 10, 10], [50, 50, 90, 90]]), torch.tensor([4, 2]))
    boxes = torch.tensor([[51.0, 50, 90, 90], [0, 0, 10, 6], [0, 0, 10, 4], [200, 0, 210, 10]])
    torch.manual_seed(0)
    chosen = choose(Regions((300, 300), boxes), truth, config)
    # At most half of 4 are objects; the true boxes are candidates.
    by_box = dict(zip(map(tuple, chosen.boxes.tolist()), chosen.labels.tolist(), strict=True))
    assert by_box[0, 0, 10, 4] == 5
    assert by_box[200, 0, 210, 10] == 5
    objects = chosen.labels < 5
    assert objects.sum() == 2
    for box, label, target in zip(
        chosen.boxes[objects], chosen.labels[objects], chosen.targets[objects], strict=True
    ):
        first = bool(box[0] == 0)
        assert label == (4 if first else 2)
        assert torch.equal(target, truth.boxes[0 if first else 1])
    assert not objects[2:].any()  # objects come first


# ---- Proposals.


def proposals(boxes, logits, *overrides):
    """Proposals for an image of 100 x 100 pixels, from boxes and logits by level."""
    config = config_of("fpn-r18-boxes", "MODEL.PROPOSAL_GENERATOR.MIN_SIZE", 0, *overrides)
    levels = [f"p{i}" for i in range(2, 7)]
    channels, strides = dict.fromkeys(levels, 8), {f"p{i}": 2**i for i in range(2, 7)}
    network = ProposalNetwork(config, channels, strides).eval()
    (found,) = network.propose(
        [torch.tensor([level]) for level in boxes],
        [torch.tensor([level]) for level in logits],
        [(100, 100)],
    )
    return found.boxes.tolist()


FIRST, SECOND, THIRD = [0.0, 0, 10, 10], [20.0, 0, 30, 10], [0.0, 40, 30, 50]


def test_proposals_are_ranked_by_logits_where_sigmoids_saturate():
    boxes, logits = [[FIRST, SECOND, THIRD]], [[30.0, 40, 35]]
    assert proposals(boxes, logits) == [SECOND, THIRD, FIRST]
    assert proposals(boxes, logits, "MODEL.RPN.PRE_NMS_TOPK_TEST", 1) == [SECOND]


def test_nms_of_proposals_is_per_level():
    shifted = [0.5, 0, 10.5, 10]
    assert proposals([[FIRST, shifted]], [[1.0, 2]]) == [shifted]
    assert proposals([[FIRST], [shifted]], [[1.0], [2]]) == [shifted, FIRST]


def test_the_best_of_all_levels_are_kept_together():
    boxes, logits = [[FIRST, SECOND], [THIRD]], [[1.0, 3], [2.0]]
    assert proposals(boxes, logits, "MODEL.RPN.POST_NMS_TOPK_TEST", 2) == [SECOND, THIRD]


def test_proposals_are_clipped_and_empty_or_infinite_ones_are_dropped():
    boxes = [[[-5.0, 90, 20, 130], [120, 0, 130, 10], [0, 0, math.inf, 5]]]
    assert proposals(boxes, [[1.0, 2, 3]]) == [[0, 90, 20, 100]]


def test_proposal_losses_are_divided_by_the_configured_number_of_anchors():
    losses = []
    for count in (100_000, 200_000):  # more than the number of anchors
        config = config_of("fpn-r18-boxes", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", count)
        torch.manual_seed(0)
        model = build_model(changed(config, "MODEL.RPN.POSITIVE_FRACTION", 1.0)).train()
        losses.append(model(batch_of(config)))
    for name in ("loss_rpn_cls", "loss_rpn_loc"):
        assert losses[0][name].item() == pytest.approx(2 * losses[1][name].item(), rel=1e-5)


def test_detections_are_above_the_score_threshold_and_survive_nms():
    config = config_of("fpn-r18-boxes", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.25)
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60], [0, 60, 10, 70]])
    scores = torch.full((4, 6), 1e-9)
    scores[0, [0, 1]] = torch.tensor([0.6, 0.3])
    scores[1, [0, 1]] = torch.tensor([0.3, 0.6])
    scores[2, 5] = 1.0  # background
    scores[3, :4] = 0.25  # not above
    found = detect(scores.log(), torch.zeros(4, 20), [Regions((80, 80), boxes)], config)[0]
    assert found.labels.tolist() == [0, 1]
    assert found.boxes.tolist() == boxes[:2].tolist()
    assert found.scores.tolist() == pytest.approx([0.6 / 0.9, 0.6 / 0.9])
