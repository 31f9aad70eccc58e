"""Our networks, steps and inference equal MMSegmentation's on the same weights, images and seeds.

On one thread of a CPU all differences are 0, except where a test names the operation. MMSegmentation runs as
with its own tools: EncoderDecoder, optimizer, schedule and test pipeline are built from the config that a run
writes. With MMSegmentation installed elsewhere:  PYTHONPATH=... pytest -n0 <this file>
"""

import numpy as np
import pytest
import torch

from tests.transfer.segmenters.mmseg_cases import (
    CASES,
    CLASSES,
    RATE,
    STEPS,
    batch_of,
    image_of,
    settled,
)
from tests.transfer.segmenters.mmseg_frozen_numbers import trained, training_of
from tests.transfer.segmenters.mmseg_twin import Twin, engine, needs_mmseg
from transfer.segmenters.crops import normalized
from transfer.segmenters.fcn import build_fcn
from transfer.segmenters.mmseg_config import averages
from transfer.segmenters.segmenter_training import rate_at
from transfer.segmenters.windows import class_scores, label_pixels

pytestmark = needs_mmseg
CPU = torch.device("cpu")
PRECISIONS = {"float32": False, "bfloat16": True}
LOSSES = {"loss_decode": "decode.loss_ce", "loss_auxiliary": "aux.loss_ce"}
"""Our name of a loss -> MMSegmentation's."""
SUM = 1e-6
"""Relative difference of the reported losses: MMSegmentation sums a map of losses, and our cross entropy
sums them itself, in another order. The gradients do not depend on this sum."""


@pytest.fixture(scope="module", params=CASES)
def start(request):
    """A case, and weights for all networks."""
    case = CASES[request.param]
    return case, {name: value.clone() for name, value in settled(case).state_dict().items()}


@pytest.fixture
def pair(start):
    """The case, our network and MMSegmentation's model with the same weights, in training mode."""
    case, weights = start
    ours = build_fcn(case.spec, len(CLASSES), case.config.network).train()
    ours.load_state_dict(weights)
    twin = Twin(case, weights)
    twin.model.train()
    return case, ours, twin


def inputs(case, step: int = 0) -> torch.Tensor:
    batch = batch_of(case, step)
    return normalized(batch.pixels, batch.sizes, case.spec.normalization)


def different(one: dict, other: dict) -> list[str]:
    """Names of tensors that are not bit for bit equal."""
    assert set(one) == set(other)
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_a_seed_gives_both_engines_the_same_weights(start):
    case, _ = start
    states = []
    for build in (build_fcn, engine().build):
        torch.manual_seed(0)
        network = build(case.spec, len(CLASSES), case.config.network)
        trains = {name: p.requires_grad for name, p in network.named_parameters()}
        states.append((network.state_dict(), trains, torch.get_rng_state()))
    (one, one_trains, one_random), (other, other_trains, other_random) = states
    assert different(one, other) == []
    assert one_trains == other_trains
    assert torch.equal(one_random, other_random)


def test_inputs_of_the_network(pair):
    case, _, twin = pair
    data = twin.inputs(batch_of(case, 0))
    assert torch.equal(inputs(case), data["inputs"])
    labels = torch.stack([sample.gt_sem_seg.data[0] for sample in data["data_samples"]])
    assert torch.equal(batch_of(case, 0).labels.long(), labels)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_features_logits_and_resized_logits(pair, precision, training):
    case, ours, twin = pair
    x = inputs(case)
    ours.train(training)
    twin.model.train(training)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=PRECISIONS[precision]):
        for one, other in zip(ours.backbone(x).values(), twin.model.backbone(x), strict=True):
            assert torch.equal(one, other)
        torch.manual_seed(5)  # of dropout
        found = ours.logits(x)
        torch.manual_seed(5)
        features = twin.model.extract_feat(x)
        expected = {"decode": twin.model.decode_head(features)}
        if training and twin.model.with_auxiliary_head:
            expected["auxiliary"] = twin.model.auxiliary_head(features)
        assert different(found, expected) == []
        meta = [{"img_shape": tuple(x.shape[-2:])}]
        one = ours.resize(found["decode"], x.shape[-2:])
        assert torch.equal(one, twin.resized(expected["decode"], meta))


def test_losses_and_gradients(pair):
    case, ours, twin = pair
    theirs = twin.losses(0)
    twin.model.parse_losses(theirs)[0].backward()
    torch.manual_seed(0)
    (loss,) = training_of(case, ours).losses(ours, batch_of(case, 0), 0)
    loss.total.backward()
    for name, value in loss.terms.items():
        assert float(value) == pytest.approx(float(theirs[LOSSES[name]].detach()), rel=SUM)
    assert len(loss.terms) == sum(name in theirs for name in LOSSES.values())
    gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    expected = {n: p.grad for n, p in twin.model.named_parameters() if p.grad is not None}
    assert different(gradients, expected) == []


def test_weights_after_three_steps_of_its_optimizer_and_schedule(pair):
    case, ours, twin = pair
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    losses = trained(case, ours)
    for step in range(STEPS):
        found = twin.train_step(step)
        assert losses[step] == pytest.approx(
            {k: found[v] for k, v in LOSSES.items() if v in found}, rel=SUM
        )
    assert different(ours.state_dict(), twin.model.state_dict()) == []
    assert different(ours.state_dict(), before), "nothing was trained"


def test_learning_rates(pair):
    case, _, twin = pair
    rates, optimizer = [], twin.optimizer.optimizer
    for _ in range(case.config.solver.iterations):
        rates.append(max(group["lr"] for group in optimizer.param_groups))
        optimizer.step()
        twin.step_schedule()
    solver = case.config.solver
    expected = [rate_at(step, RATE * solver.head_rate, solver) for step in range(len(rates))]
    # A recursion and its closed form, in float64.
    assert rates == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_both_engines_give_bit_for_bit_equal_steps(start):
    case, weights = start
    networks = []
    for build in (build_fcn, engine().build):
        network = build(case.spec, len(CLASSES), case.config.network)
        network.load_state_dict(weights)
        networks.append((trained(case, network), network.state_dict()))
    (one_losses, one), (other_losses, other) = networks
    assert one_losses == other_losses
    assert different(one, other) == []


def test_scores_of_an_image(pair):
    case, ours, twin = pair
    ours.eval()
    options = case.config.inference
    scores = class_scores(ours, image_of(case), options, case.spec.normalization, CPU)
    expected = twin.scores(image_of(case))
    if averages(options):
        # The mean of the probabilities instead of their sum.
        torch.testing.assert_close(scores / (2 * len(options.scales)), expected, rtol=1e-6, atol=0)
    else:
        assert torch.equal(scores, expected)


def test_labels_of_an_image(pair):
    case, ours, twin = pair
    ours.eval()
    found = label_pixels(ours, image_of(case), case.config.inference, case.spec.normalization, CPU)
    expected = twin.labels(image_of(case))
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 1, "nothing is compared"
