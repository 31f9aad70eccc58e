import math

import pytest
import torch
from torch import Tensor

from pretrain.objectives.distillation import (
    self_distillation_loss,
    teacher_temperature,
    updated_center,
)
from tests.reference import objectives as reference

TEMPERATURES = {"student_temperature": 0.1, "teacher_temperature": 0.05}


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("views", "teachers"), [(2, 2), (2, 1), (6, 2)])
def test_self_distillation_loss_is_algorithm_1_of_dino(views, teachers):
    student, teacher, center = list(draw(0, views, 4, 5)), list(draw(1, teachers, 4, 5)), draw(2, 5)
    torch.testing.assert_close(
        self_distillation_loss(student, teacher, center, **TEMPERATURES),
        reference.self_distillation_loss(student, teacher, center, **TEMPERATURES),
    )


def test_loss_gradient_and_center_are_those_of_lightly():
    loss = pytest.importorskip("lightly.loss").DINOLoss(
        output_dim=5, student_temp=0.1, teacher_temp=0.05, center_momentum=0.8
    )
    ours, theirs = draw(0, 6, 4, 5).requires_grad_(), draw(0, 6, 4, 5).requires_grad_()
    center = torch.zeros(5, dtype=torch.float64)
    for step in range(2):
        teacher = list(draw(1 + step, 2, 4, 5))
        ours_loss = self_distillation_loss(list(ours), teacher, center, **TEMPERATURES)
        center = updated_center(center, teacher, momentum=0.8)
        theirs_loss = loss(teacher, list(theirs), teacher_temp=0.05)
        # lightly's temperatures are float32 tensors
        torch.testing.assert_close(ours_loss, theirs_loss, rtol=1e-6, atol=0)
        ours_loss.backward()
        theirs_loss.backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(center, loss.center.flatten(), check_dtype=False)


def test_loss_of_uniform_outputs_is_the_logarithm_of_their_number():
    zeros = [torch.zeros(3, 16)] * 2
    loss = self_distillation_loss(zeros, zeros, torch.zeros(16), **TEMPERATURES)
    assert loss.item() == pytest.approx(math.log(16))


def test_loss_ignores_the_order_of_images_and_offsets_of_the_outputs():
    student, teacher, center = draw(0, 3, 6, 5), draw(1, 2, 6, 5), draw(2, 5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = self_distillation_loss(
        list(student[:, order] + 3), list(teacher[:, order] - 2), center, **TEMPERATURES
    )
    expected = self_distillation_loss(list(student), list(teacher), center, **TEMPERATURES)
    torch.testing.assert_close(moved, expected)


def test_only_the_student_gets_a_gradient():
    student, teacher, center = (
        draw(seed, *shape).requires_grad_()
        for seed, shape in enumerate([(2, 4, 5), (2, 4, 5), (5,)])
    )
    self_distillation_loss(list(student), list(teacher), center, **TEMPERATURES).backward()
    assert student.grad is not None
    assert teacher.grad is None
    assert center.grad is None


def test_gradient_matches_finite_differences():
    teacher, center = list(draw(1, 2, 4, 3)), draw(2, 3)
    assert torch.autograd.gradcheck(
        lambda s: self_distillation_loss(list(s), teacher, center, **TEMPERATURES),
        draw(0, 3, 4, 3).requires_grad_(),
    )


def test_a_single_view_is_rejected():
    with pytest.raises(ValueError, match="at least 2 views.* got 1 views and 1 targets"):
        self_distillation_loss([draw(0, 4, 3)], [draw(1, 4, 3)], draw(2, 3), **TEMPERATURES)


def test_the_center_moves_to_the_mean_over_images_and_views():
    teacher, center = draw(0, 2, 4, 3), draw(1, 3)
    mean = sum(teacher[view, image] for view in range(2) for image in range(4)) / 8
    new = updated_center(center, list(teacher), momentum=0.9)
    torch.testing.assert_close(new, 0.9 * center + 0.1 * mean)
    for _ in range(200):
        center = updated_center(center, list(teacher), momentum=0.9)
    torch.testing.assert_close(center, mean)


@pytest.mark.parametrize(
    ("warmup_epochs", "expected"),
    [(0, [0.07] * 4), (1, [0.04, 0.07, 0.07, 0.07]), (3, [0.04, 0.055, 0.07, 0.07])],
)
def test_the_teacher_temperature_grows_linearly_in_the_warmup_epochs(warmup_epochs, expected):
    temperatures = [
        teacher_temperature(epoch, start=0.04, final=0.07, warmup_epochs=warmup_epochs)
        for epoch in range(4)
    ]
    assert temperatures == pytest.approx(expected)
