"""Under autocast, each loss equals the loss without autocast, for float32 and for bfloat16 inputs."""

import pytest
import torch
from torch import Tensor

from pretrain.objectives import clustering, contrast, distillation, redundancy, whitening
from pretrain.objectives.precision import full_precision


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def w_mse_loss(z: Tensor) -> Tensor:
    return whitening.w_mse_loss(z, size=12, iterations=2, epsilon=0.0, generator=seeded())


def self_distillation_loss(z: Tensor) -> Tensor:
    center = distillation.updated_center(z[0, 0], list(z), momentum=0.9)
    return distillation.self_distillation_loss(
        list(z), list(z[:2]), center, student_temperature=0.1, teacher_temperature=0.04
    )


def swapped_prediction_loss(z: Tensor) -> Tensor:
    codes = [clustering.sinkhorn_codes(view, epsilon=0.05, iterations=3) for view in z[:2]]
    return clustering.swapped_prediction_loss(list(z), codes, temperature=0.1)


def assigned_centroids(z: Tensor) -> Tensor:
    centroids, assignments = clustering.spherical_kmeans(
        z[0], clusters=4, iterations=3, generator=seeded()
    )
    return centroids[assignments]


LOSSES = {
    "SimCLR": lambda z: contrast.nt_xent_loss(z, temperature=0.1),
    "MoCo v2": lambda z: contrast.queue_contrast_loss(*z, temperature=0.1),
    "MoCo v3": lambda z: contrast.batch_contrast_loss(z[0], z[1], temperature=0.1),
    "SimSiam": lambda z: redundancy.negative_cosine_loss(z, z.roll(1, 1)),
    "Barlow Twins": lambda z: redundancy.barlow_twins_loss(z, off_diagonal=0.3),
    "VICReg": lambda z: torch.stack(redundancy.vicreg_terms(z)),
    "W-MSE": w_mse_loss,
    "DBN": lambda z: whitening.decorrelation_loss(z, groups=2, epsilon=1e-5),
    "codes": lambda z: clustering.sinkhorn_codes(z[0], epsilon=0.05, iterations=3),
    "SwAV": swapped_prediction_loss,
    "k-means": assigned_centroids,
    "DeepCluster": lambda z: clustering.cluster_assignment_loss(
        list(z), torch.arange(24) % 8, temperature=0.1
    ),
    "DINO": self_distillation_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_change_a_loss(name):
    z = torch.randn(3, 24, 8, generator=seeded())
    expected = LOSSES[name](z)
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name](z)
        assert (z[0] @ z[0].T).dtype == torch.bfloat16  # autocast is on, also after the loss
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_bfloat16_inputs_is_that_of_the_rounded_inputs(name):
    z = torch.randn(3, 24, 8, generator=seeded()).bfloat16()
    loss = LOSSES[name](z)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, LOSSES[name](z.float()))


def test_double_precision_is_kept():
    half, single, double = (torch.ones(2, dtype=d) for d in (torch.half, torch.float, torch.double))
    types = full_precision(lambda *values, last: [x.dtype for x in (*values, *last)])
    assert types(half, single, last=[double, half]) == [
        torch.float32,
        torch.float32,
        torch.float64,
        torch.float32,
    ]
