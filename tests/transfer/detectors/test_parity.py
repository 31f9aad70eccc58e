"""Our detector and Detectron2's are bit for bit equal on the same weights, images and seeds.

On one thread of a CPU. With Detectron2 installed elsewhere:  PYTHONPATH=... pytest -n0 <this file>
"""

import pytest
import torch

from tests.transfer.detectors.cases import CASES, batch_of, config_of, sample_of, settle
from tests.transfer.detectors.detectron2_twin import (
    inner_values,
    its_warnings,
    needs_detectron2,
    pair,
)
from transfer.detectors.rcnn import build_model
from transfer.detectors.rcnn.proposals import ProposalNetwork

pytestmark = needs_detectron2
PRECISIONS = {"float32": False, "bfloat16": True}


@pytest.fixture(scope="module", params=CASES)
def twins(request):
    """Config, our model and Detectron2's, and a state that activates every branch."""
    config = config_of(request.param)
    ours, theirs = pair(config, build_model)
    fresh = theirs.state_dict()
    same = list(fresh) == list(ours.state_dict()) and all(
        torch.equal(value, fresh[key]) for key, value in ours.state_dict().items()
    )
    settle(ours, config)
    state = {key: value.clone() for key, value in ours.state_dict().items()}
    return config, ours, theirs, state, same


@pytest.fixture(params=PRECISIONS)
def run(request):
    """A forward pass from a fixed seed with a given precision."""

    def forward(model, batch):
        torch.manual_seed(11)
        with its_warnings(), torch.autocast("cpu", torch.bfloat16, PRECISIONS[request.param]):
            return model(batch)

    return forward


def reset(twins):
    config, ours, theirs, state, _ = twins
    ours.load_state_dict(state)
    theirs.load_state_dict(state)
    return config, ours, theirs


def assert_equal(ours, theirs):
    """Check that nested dicts, lists and tensors are bit for bit equal."""
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key in ours:
            assert_equal(ours[key], theirs[key])
    elif isinstance(ours, list):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_equal(one, other)
    elif ours is None:
        assert theirs is None
    else:
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_a_seed_gives_both_models_the_same_names_order_and_weights(twins):
    _, ours, theirs, _, same = twins
    assert same
    needs = [(n, p.requires_grad) for n, p in theirs.named_parameters()]
    assert needs == [(n, p.requires_grad) for n, p in ours.named_parameters()]


def test_anchors(twins):
    _, ours, theirs, _, _ = twins
    generator = ours.proposal_generator
    assert isinstance(generator, ProposalNetwork)
    maps = [torch.zeros(1, 1, 9 - i, 12 - i) for i in range(len(generator.features))]
    with its_warnings():
        expected = [boxes.tensor for boxes in theirs.proposal_generator.anchor_generator(maps)]
    assert_equal(generator.anchors(maps), expected)


def test_detections_and_intermediate_values(twins, run):
    config, ours, theirs = reset(twins)
    batch = batch_of(config)
    with torch.no_grad():
        mine = inner_values(ours.eval(), batch, run)
        other = inner_values(theirs.eval(), batch, run)
    found, expected = mine.pop("output"), other.pop("output")
    assert_equal(mine, other)
    for one, right in zip(found, expected, strict=True):
        assert len(one.boxes)
        assert_equal(
            [one.boxes, one.scores.to(right.scores.dtype), one.labels],
            [right.boxes, right.scores, right.labels],
        )
        if config.MODEL.MASK_ON:
            assert torch.equal(one.masks, right.masks)
            assert 0 < one.masks.float().mean() < 1
        if config.MODEL.KEYPOINT_ON:
            assert torch.equal(one.keypoints.to(right.keypoints.dtype), right.keypoints)


def test_losses_and_intermediate_values(twins, run):
    config, ours, theirs = reset(twins)
    batch = batch_of(config)
    mine = inner_values(ours.train(), batch, run)
    other = inner_values(theirs.train(), batch, run)
    assert all(value > 0 for value in mine["output"].values())
    assert_equal(mine, other)


def test_three_steps_of_sgd_give_equal_gradients_weights_and_statistics(twins, run):
    config, ours, theirs = reset(twins)
    for step in range(3):
        gradients = []
        for model in (ours.train(), theirs.train()):
            trained = [p for p in model.parameters() if p.requires_grad]
            if step == 0:
                model.optimizer = torch.optim.SGD(trained, lr=2e-4, momentum=0.9)
            model.optimizer.zero_grad()
            sum(run(model, batch_of(config, step)).values()).backward()
            gradients.append(
                {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
            )
            model.optimizer.step()
        assert_equal(*gradients)
    assert_equal(ours.state_dict(), theirs.state_dict())
    trained = [n for n, p in ours.named_parameters() if p.requires_grad]
    assert any(not torch.equal(ours.state_dict()[n], twins[3][n]) for n in trained)


def test_an_image_without_objects(twins, run):
    config, ours, theirs = reset(twins)
    empty = sample_of(config, seed=4, height=96, width=112, objects=0, scene=1)
    batch = [batch_of(config)[0], empty]
    assert_equal(run(ours.train(), batch), run(theirs.train(), batch))


def test_diverged_weights_detect_nothing_in_both(twins, run):
    config, ours, theirs = reset(twins)
    with torch.no_grad():
        for model in (ours.eval(), theirs.eval()):
            model.roi_heads.box_predictor.bbox_pred.bias.fill_(torch.nan)
        found, expected = (run(model, batch_of(config)) for model in (ours, theirs))
    for one, right in zip(found, expected, strict=True):
        assert len(one.boxes) == len(right.boxes) == 0
