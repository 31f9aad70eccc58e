"""Schedules, parameter groups, and the loss of divided batches."""

import copy
import dataclasses
import functools

import pytest
import torch

from msbreg.backbones.spec import IMAGENET, BackboneSpec
from tests.reference import segmentation as slow
from transfer.segmenters.crops import Batch
from transfer.segmenters.fcn import Segmenter, build_fcn
from transfer.segmenters.segmentation_config import Config, NetworkOptions, SolverOptions
from transfer.segmenters.segmenter_training import SegmenterTraining, build_optimizer, rate_at

CPU = torch.device("cpu")
NETWORK = NetworkOptions(channels=8, freeze="statistics", output_stride=32)


@functools.cache
def start() -> Segmenter:
    torch.manual_seed(0)
    return build_fcn(BackboneSpec("resnet18-narrow"), 3, NETWORK)


def training(accumulate: int = 1, **solver: object) -> SegmenterTraining:
    config = Config(network=NETWORK, solver=SolverOptions(**solver), accumulate=accumulate)
    made = SegmenterTraining(copy.deepcopy(start()), config, 0.1, IMAGENET, CPU)
    made.train_mode()
    return made


def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (4, 32, 32), dtype=torch.uint8, generator=generator)
    labels[0, 4:] = labels[3, :, :7] = 255  # parts have different numbers of labeled pixels
    return Batch(pixels, labels, torch.full((4, 2), 32))


def gradients(made: SegmenterTraining) -> list[torch.Tensor]:
    for loss in made.losses(made.model, batch(), 0):
        loss.total.backward()
    return [p.grad for p in made.model.parameters()]


def test_the_step_schedule_drops_at_the_given_fractions():
    options = SolverOptions(iterations=30_000)
    found = [rate_at(step, 0.003, options) for step in (0, 20_999, 21_000, 26_999, 27_000)]
    assert found == pytest.approx([0.003, 0.003, 3e-4, 3e-4, 3e-5])


def test_the_poly_schedule_equals_the_recursion_of_mmengine():
    options = SolverOptions(iterations=200, schedule="poly", final_rate=1e-4)
    found = [rate_at(step, 0.01, options) for step in range(200)]
    assert found == pytest.approx(slow.poly_rates(0.01, 1e-4, 0.9, 200), rel=1e-9)


def test_heads_have_their_own_rate_and_decay():
    network = start()
    options = SolverOptions(head_rate=10, head_weight_decay=0.0)
    backbone, heads = build_optimizer(network, 0.01, options).param_groups
    assert (backbone["lr"], heads["lr"]) == (0.01, 0.1)
    assert (backbone["weight_decay"], heads["weight_decay"]) == (1e-4, 0.0)
    assert len(heads["params"]) == len(list(network.decode_head.parameters()))


def test_a_frozen_backbone_is_not_in_the_optimizer():
    options = dataclasses.replace(NETWORK, freeze="backbone")
    network = build_fcn(BackboneSpec("resnet18-narrow"), 3, options)
    (group,) = build_optimizer(network, 0.01, SolverOptions()).param_groups
    assert len(group["params"]) == len(list(network.decode_head.parameters()))


@pytest.mark.parametrize("loss_over", ["labeled", "all"])
def test_accumulated_parts_have_the_gradient_of_the_whole_batch(loss_over):
    whole, parts = (gradients(training(n, loss_over=loss_over)) for n in (1, 2))
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # sums in other orders


def test_the_loss_is_the_mean_over_the_labeled_or_over_all_pixels():
    labeled, everything = (
        float(next(made.losses(made.model, batch(), 0)).total.detach())
        for made in (training(loss_over="labeled"), training(loss_over="all"))
    )
    share = float((batch().labels != 255).float().mean())
    assert everything == pytest.approx(labeled * share, rel=1e-5)
    assert labeled == pytest.approx(1.1, abs=0.1)  # near log 3 at the start


def test_an_all_void_batch_has_the_loss_zero():
    made = training()
    void = dataclasses.replace(batch(), labels=torch.full((4, 32, 32), 255, dtype=torch.uint8))
    (loss,) = made.losses(made.model, void, 0)
    assert float(loss.total.detach()) == 0
