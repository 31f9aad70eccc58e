"""The loss of a step equals the formula of the paper, applied to embeddings computed by the networks."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pretrain.losses import other_views
from pretrain.method_settings import BarlowTwinsSettings, MoCoV2Settings, SwAVSettings
from pretrain.methods.dino import Head
from pretrain.methods.method import step_generator
from pretrain.recipe import AugmentSettings, Config
from tests.pretrain.methods.small_methods import EPOCH, backward, pixels, settings, training, update
from tests.reference import objectives as reference

LOCAL = AugmentSettings(size=16, local_views=2, local_size=8)


def one_step(config: Config, step: int = 0) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The loss of a step; the outputs of the trained network for all views; those of its target network.

    The networks are copies from before the step, so that no BatchNorm statistics or weights are shared.
    """
    trained = training(config)
    online = trained.method.trained
    target = getattr(trained.method, "target", online)
    if target is not online:  # at the start, they are equal
        perturb(target)
    online, target = with_scores(online), with_scores(target)
    total = backward(trained, step)["total"]
    with torch.no_grad():
        outputs = [doubled(online(view)) for view in pixels(config, step)]
        targets = [doubled(target(view)) for view in pixels(config, step)]
    return total.double(), outputs, targets


def with_scores(network: nn.Module):
    """A copy of the network; for DINO, followed by the last layer of its head."""
    copied = copy.deepcopy(network)
    if isinstance(copied.projector, Head):
        return lambda view: copied.projector.scores(copied(view))
    return copied


@torch.no_grad()
def perturb(network: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def doubled(outputs):
    if isinstance(outputs, tuple):
        return tuple(output.double() for output in outputs)
    return outputs.double()


def assert_equal_losses(total: Tensor, expected: Tensor) -> None:
    """Up to float32: the reference computes in float64."""
    torch.testing.assert_close(total, expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("views", [2, 3])
def test_simclr_is_nt_xent_of_the_projections(views):
    config = settings("simclr", views=views)
    total, z, _ = one_step(config)
    assert_equal_losses(total, reference.nt_xent_loss(torch.stack(z), temperature=0.1))


def queue_at_start(config: Config) -> Tensor:
    return training(config).method.memory["queue"].double()


def test_moco_v2_compares_the_first_view_with_the_keys_of_the_others():
    config = settings("moco_v2", views=3)
    total, queries, keys = one_step(config)
    queue = queue_at_start(config)
    losses = [
        reference.queue_contrast_loss(queries[0], keys[view], queue, temperature=0.2)
        for view in (1, 2)
    ]
    assert_equal_losses(total, reference.mean(losses))


def test_symmetric_moco_v2_compares_all_ordered_pairs_of_views():
    config = settings("moco_v2", views=3, moco_v2=MoCoV2Settings(queue=24, symmetric=True))
    total, queries, keys = one_step(config)
    queue = queue_at_start(config)
    losses = [
        reference.queue_contrast_loss(queries[i], keys[j], queue, temperature=0.2)
        for i in range(3)
        for j in range(3)
        if i != j
    ]
    assert_equal_losses(total, reference.mean(losses))


def test_moco_v3_sums_both_directions_of_two_views():
    total, queries, keys = one_step(settings("moco_v3"))
    first = reference.batch_contrast_loss(queries[0], keys[1], temperature=1.0)
    second = reference.batch_contrast_loss(queries[1], keys[0], temperature=1.0)
    assert_equal_losses(total, first + second)


def test_moco_v3_with_three_views_is_twice_the_mean_over_ordered_pairs():
    total, queries, keys = one_step(settings("moco_v3", views=3))
    losses = [
        reference.batch_contrast_loss(queries[i], key, temperature=1.0)
        for i in range(3)
        for key in other_views(torch.stack(keys), i)
    ]
    assert_equal_losses(total, 2 * reference.mean(losses))


@pytest.mark.parametrize("views", [2, 3])
def test_simsiam_is_the_negative_cosine_of_predictions_and_other_projections(views):
    total, outputs, _ = one_step(settings("simsiam", views=views))
    z, p = (torch.stack(part) for part in zip(*outputs, strict=True))
    assert_equal_losses(total, reference.negative_cosine_loss(p, z))


def test_barlow_twins_scales_the_loss_of_the_correlation():
    config = settings(
        "barlow_twins", views=3, barlow_twins=BarlowTwinsSettings(off_diagonal=0.01, scale=0.5)
    )
    total, z, _ = one_step(config)
    assert_equal_losses(total, 0.5 * reference.barlow_twins_loss(torch.stack(z), off_diagonal=0.01))


def test_vicreg_weights_its_three_terms_by_25_25_and_1():
    total, z, _ = one_step(settings("vicreg", views=3))
    invariance, variance, covariance = reference.vicreg_terms(torch.stack(z))
    assert_equal_losses(total, 25 * invariance + 25 * variance + covariance)


def test_wmse_whitens_the_parts_of_random_partitions_of_its_step():
    step = 3
    config = settings("wmse")
    total, z, _ = one_step(config, step)
    generator = step_generator(config.seed, step)
    orders = [torch.randperm(8, generator=generator) for _ in range(config.wmse.iterations)]
    parts = [[order[:4].tolist(), order[4:].tolist()] for order in orders]
    expected = reference.w_mse_loss(torch.stack(z), parts=parts, epsilon=config.wmse.epsilon)
    assert_equal_losses(total, expected)


def test_dbn_whitens_groups_of_shuffled_dimensions_anew_for_each_view():
    step = 3
    config = settings("dbn", views=3)
    total, z, _ = one_step(config, step)
    generator = step_generator(config.seed, step)
    shuffles = [torch.randperm(8, generator=generator).tolist() for _ in z]
    white = [
        reference.decorrelated(view, groups=2, epsilon=config.dbn.epsilon, shuffle=shuffle)
        for view, shuffle in zip(z, shuffles, strict=True)
    ]
    assert_equal_losses(total, reference.pairwise_squared_distance(white))


def swav_loss(scores: list[Tensor], codes: list[Tensor]) -> Tensor:
    return reference.cross_view_entropy(codes, [view / 0.1 for view in scores])


def test_swav_predicts_the_codes_of_the_large_views_from_all_other_views():
    config = settings("swav", augment=LOCAL, swav=SwAVSettings(prototypes=5))
    total, z, _ = one_step(config)
    prototypes = training(config).method.online.prototypes.detach().double()
    scores = [normalize(view, dim=-1) @ prototypes.T for view in z]
    codes = [
        reference.sinkhorn_codes(view, epsilon=config.swav.epsilon, iterations=3)
        for view in scores[:2]
    ]
    assert_equal_losses(total, swav_loss(scores, codes))


def test_the_full_queue_of_swav_takes_part_in_the_assignment():
    """Steps 0 and 1 fill the queue of 10 embeddings; step 2 uses it."""
    config = settings("swav", views=3)
    trained = training(config)
    earlier = []  # newest first; of each view
    for step in range(2):
        network = copy.deepcopy(trained.method.online)
        with torch.no_grad():
            z = [network(view).double() for view in pixels(config, step)[:3]]
        earlier.insert(0, torch.stack([normalize(view, dim=-1) for view in z]))
        backward(trained, step)
        update(trained, step)
    network = copy.deepcopy(trained.method.online)
    total = backward(trained, 2)["total"].double()
    with torch.no_grad():
        z = [network(view).double() for view in pixels(config, 2)]
    prototypes = network.prototypes.detach().double()
    scores = [normalize(view, dim=-1) @ prototypes.T for view in z]
    queue = torch.cat(earlier, dim=1)[:, :10]
    codes = [
        reference.sinkhorn_codes(
            torch.cat([scores[view], queue[view] @ prototypes.T]),
            epsilon=config.swav.epsilon,
            iterations=3,
        )[:8]
        for view in range(3)
    ]
    assert_equal_losses(total, swav_loss(scores, codes))


def test_deepcluster_predicts_the_clusters_of_the_epoch_before():
    config = settings("deepcluster_v2", augment=LOCAL)
    trained = training(config)
    memory = copy.deepcopy(trained.method.memory["embeddings"]).double()
    online = copy.deepcopy(trained.method.online)
    total = backward(trained, 0)["total"].double()
    with torch.no_grad():
        z = [normalize(online(view).double(), dim=-1) for view in pixels(config, 0)]
    generator = step_generator(config.seed, 0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(100))[:8]
    losses = []
    for number, clusters in enumerate((3, 4)):
        start = torch.randperm(16, generator=generator)[:clusters].tolist()
        centroids, assignments = reference.spherical_kmeans(
            memory[number], start=start, iterations=2
        )
        scores = [view @ torch.stack(centroids).T for view in z]
        targets = [assignments[image] for image in order]
        losses.append(reference.cluster_assignment_loss(scores, targets, temperature=0.1))
    assert_equal_losses(total, reference.mean(losses))


def test_dino_compares_the_student_with_the_centered_and_sharpened_teacher():
    config = settings("dino", augment=LOCAL)
    total, outputs, targets = one_step(config)
    expected = reference.self_distillation_loss(
        outputs,
        targets[:2],
        torch.zeros(6, dtype=torch.float64),
        student_temperature=0.1,
        teacher_temperature=0.04,
    )
    assert_equal_losses(total, expected)


def test_dino_sharpens_less_after_its_warm_up():
    config = settings("dino")
    total, outputs, targets = one_step(config, step=EPOCH)  # the last epoch of the warm-up
    expected = reference.self_distillation_loss(
        outputs,
        targets[:2],
        torch.zeros(6, dtype=torch.float64),
        student_temperature=0.1,
        teacher_temperature=0.07,
    )
    assert_equal_losses(total, expected)
