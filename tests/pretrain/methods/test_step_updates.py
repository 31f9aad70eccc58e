"""What a step changes besides the trained weights: targets, queues, centers, prototypes, gradients."""

import copy

import pytest
import torch
from torch.nn.functional import normalize

from msbreg.run.errors import UserError
from pretrain.method_settings import (
    DBNSettings,
    DeepClusterV2Settings,
    DINOSettings,
    MoCoV2Settings,
    SwAVSettings,
    WMSESettings,
)
from pretrain.methods import build_method
from pretrain.recipe import (
    MULTI_CROP,
    AugmentSettings,
    HeadSettings,
    OptimizerSettings,
    TargetSettings,
)
from tests.pretrain.methods.small_methods import (
    ALL,
    EPOCH,
    IMAGES,
    STEPS,
    backward,
    batch,
    pixels,
    settings,
    train,
    training,
)

WITH_TARGET = ("msbreg", "byol", "moco_v2", "moco_v3", "dino")


@pytest.fixture(scope="module", params=ALL)
def after_backward(request):
    """A method after the backward pass of its first step."""
    trained = training(settings(request.param))
    memory = copy.deepcopy(trained.method.memory)
    terms = backward(trained, 0)
    return trained, memory, terms


def test_every_trained_parameter_has_a_gradient_and_no_other_tensor_has_one(after_backward):
    trained, _, _ = after_backward
    method = trained.method
    without = [name for name, p in method.trained.named_parameters() if p.grad is None]
    assert without == []
    assert any(bool(p.grad.abs().max() > 0) for p in method.trained.parameters())
    if hasattr(method, "target"):
        assert all(p.grad is None and not p.requires_grad for p in method.target.parameters())
    assert not any(value.requires_grad for value in method.memory.values())


def test_terms_are_finite_scalars_without_gradient(after_backward):
    _, _, terms = after_backward
    assert "total" in terms
    for value in terms.values():
        assert value.shape == ()
        assert value.isfinite()


def test_parameter_groups_are_disjoint_and_complete(after_backward):
    trained, _, _ = after_backward
    grouped = [id(p) for group in trained.optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in trained.method.trained.parameters()}
    for group in trained.groups:
        assert len({p.ndim > 1 for p in group["params"]}) == 1  # weights, or biases and norms
        assert (group["weight_decay"] > 0) == (group["params"][0].ndim > 1)


def test_the_evaluated_backbone_is_in_the_checkpoint_where_it_is_looked_for(after_backward):
    trained, _, _ = after_backward
    method = trained.method
    stored = trained.state_dict()[method.evaluated]
    name, value = next(iter(method.backbone().state_dict().items()))
    assert torch.equal(stored[f"backbone.{name}"], value)


def test_the_monitored_embeddings_are_one_row_per_image(after_backward):
    trained, _, _ = after_backward
    view = pixels(trained.config, 0)[0]
    with torch.no_grad():
        embeddings = trained.method.project(view)
    assert embeddings.ndim == 2
    assert len(embeddings) == len(view)


# ---- Target networks


@pytest.mark.parametrize("method", WITH_TARGET)
def test_a_target_moves_a_share_of_the_way_to_the_online_network(method):
    config = settings(method, target=TargetSettings(base_decay=0.75, schedule="constant"))
    trained = training(config)
    before = {n: p.clone() for n, p in trained.method.target.named_parameters()}
    train(trained, 0, 1)
    online = dict(trained.method.online.named_parameters())
    moved = 0.0
    for name, value in trained.method.target.named_parameters():
        expected = 0.75 * before[name] + 0.25 * online[name]
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)
        moved += float((value - before[name]).norm())
    assert moved > 0
    assert trained.method.metrics() == {"target_decay": 0.75}


def test_with_a_cosine_schedule_the_target_stands_still_at_the_end():
    trained = training(settings("moco_v3"))
    trained.method.after_step(STEPS - 1, STEPS)
    assert 0.95 < trained.method.metrics()["target_decay"] < 1
    trained.method.after_step(STEPS, STEPS)
    assert trained.method.metrics() == {"target_decay": 1.0}


# ---- MoCo v2


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_queue_of_moco_holds_the_latest_keys_in_a_ring(symmetric):
    config = settings("moco_v2", moco_v2=MoCoV2Settings(queue=20, symmetric=symmetric))
    trained = training(config)
    expected = list(trained.method.memory["queue"].clone())
    position = 0
    for step in range(3):
        target = copy.deepcopy(trained.method.target)  # the keys precede the update
        used = pixels(config, step)[0 if symmetric else 1 :]
        with torch.no_grad():
            keys = torch.cat([normalize(target(view), dim=-1) for view in used])
        train(trained, step, step + 1)
        for key in keys:
            expected[position % 20] = key
            position += 1
        torch.testing.assert_close(trained.method.memory["queue"], torch.stack(expected))


def test_the_keys_of_a_step_are_not_among_its_negatives():
    trained = training(settings("moco_v2"))
    before = trained.method.memory["queue"].clone()
    backward(trained, 0)
    assert torch.equal(trained.method.memory["queue"], before)


def test_a_queue_smaller_than_the_keys_of_a_step_is_refused():
    message = r"moco_v2\.queue is 15; .* 8 x 2\. Set it with --moco_v2\.queue"
    with pytest.raises(UserError, match=message):
        build_method(settings("moco_v2", moco_v2=MoCoV2Settings(queue=15, symmetric=True)))


# ---- SwAV


def lengths(prototypes):
    return prototypes.detach().norm(dim=-1)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_prototypes_stand_still_in_the_first_epoch_and_keep_unit_length(name):
    options = OptimizerSettings(name=name, base_lr=1.0, warmup_epochs=0.0, weight_decay=0.1)
    trained = training(settings("swav", optimizer=options))
    prototypes = trained.method.online.prototypes
    start = prototypes.detach().clone()
    train(trained, 0, EPOCH)
    # They are normalized again after each step, which may change the last bit.
    torch.testing.assert_close(prototypes.detach(), start, rtol=0, atol=1e-6)
    assert prototypes not in trained.optimizer.state  # no momentum yet
    train(trained, EPOCH, EPOCH + 1)
    assert (prototypes - start).abs().max() > 1e-5
    torch.testing.assert_close(lengths(prototypes), torch.ones(5))


def test_a_queue_smaller_than_the_batch_is_refused():
    with pytest.raises(UserError, match=r"swav\.queue is 7; .*Set it with --swav\.queue"):
        build_method(settings("swav", swav=SwAVSettings(queue=7)))


def test_the_queue_of_swav_is_filled_from_its_first_epoch_on():
    options = SwAVSettings(prototypes=5, queue=10, queue_from_epoch=1.0)
    trained = training(settings("swav", swav=options))
    train(trained, 0, EPOCH)
    assert not trained.method.memory["queue"].any()
    train(trained, EPOCH, EPOCH + 1)
    filled = trained.method.memory["queue"].norm(dim=-1) > 0
    assert filled.tolist() == [[True] * 8 + [False] * 2] * 2


# ---- DeepCluster-v2


def test_the_memory_has_the_embeddings_of_each_large_view_at_the_position_of_its_image():
    trained = training(settings("deepcluster_v2"))
    online = copy.deepcopy(trained.method.online)
    before = trained.method.memory["embeddings"].clone()
    train(trained, 0, 1)
    with torch.no_grad():
        z = [normalize(online(view), dim=-1) for view in pixels(trained.config, 0)[:2]]
    images = batch(trained.config, 0).images
    memory = trained.method.memory["embeddings"]
    torch.testing.assert_close(memory[:, images], torch.stack(z))
    others = [image for image in range(IMAGES) if image not in images]
    assert torch.equal(memory[:, others], before[:, others])


def test_clusters_change_only_at_the_start_of_an_epoch():
    trained = training(settings("deepcluster_v2"))
    train(trained, 0, 1)
    first = trained.method.memory["centroids0"].clone()
    train(trained, 1, EPOCH)
    assert torch.equal(trained.method.memory["centroids0"], first)
    train(trained, EPOCH, EPOCH + 1)
    assert not torch.equal(trained.method.memory["centroids0"], first)


def test_images_without_an_embedding_belong_to_no_cluster():
    method = build_method(settings("deepcluster_v2"))
    method.allocate(IMAGES + 3)
    rows = torch.randn(2, IMAGES, 8, generator=torch.Generator().manual_seed(0))
    method.memory["embeddings"][:, 3:] = normalize(rows, dim=-1)
    method._cluster(epoch=0)
    assert method.memory["assignments0"][:3].tolist() == [-100] * 3
    assert set(method.memory["assignments1"][3:].tolist()) <= {0, 1, 2, 3}


def test_more_clusters_than_images_of_an_epoch_are_refused():
    method = build_method(
        settings("deepcluster_v2", deepcluster_v2=DeepClusterV2Settings(clusters=(3, 17)))
    )
    message = r"deepcluster_v2\.clusters is \[3, 17\]; expected at most the 16 images"
    with pytest.raises(UserError, match=message):
        method.allocate(IMAGES + 3)  # the last 3 are in an incomplete batch


# ---- SimSiam


def test_the_predictor_of_simsiam_keeps_its_learning_rate():
    options = OptimizerSettings(name="sgd", base_lr=3.2, scale_by_views=False, warmup_epochs=1.0)
    trained = training(settings("simsiam", optimizer=options))
    predictor = {id(p) for p in trained.method.online.predictor.parameters()}
    fixed = [id(p) in predictor for group in trained.groups for p in group["params"]]
    assert sum(fixed) == len(predictor)
    for step in (0, 1, STEPS - 1, STEPS):
        for group, rate in zip(trained.groups, trained.learning_rates(step), strict=True):
            if id(group["params"][0]) in predictor:
                assert rate == pytest.approx(0.1)
            elif step in (0, STEPS):
                assert rate == pytest.approx(0.0)


# ---- DINO


def test_the_center_of_dino_is_the_moving_average_of_the_teachers_scores():
    trained = training(settings("dino"))
    expected = torch.zeros(6)
    for step in range(2):
        teacher = copy.deepcopy(trained.method.target)
        with torch.no_grad():
            bottleneck = torch.cat([teacher(view) for view in pixels(trained.config, step)[:2]])
            scores = teacher.projector.scores(bottleneck)
        train(trained, step, step + 1)
        expected = 0.9 * expected + 0.1 * scores.mean(0)
        torch.testing.assert_close(trained.method.memory["center"], expected)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_the_last_layer_of_dino_stands_still_in_the_first_epoch(name):
    options = OptimizerSettings(name=name, base_lr=1.0, warmup_epochs=0.0, weight_decay=0.1)
    trained = training(settings("dino", optimizer=options))
    last = trained.method.online.projector.last.weight
    start = last.detach().clone()
    train(trained, 0, EPOCH)
    assert torch.equal(last, start)
    train(trained, EPOCH, EPOCH + 1)
    assert not torch.equal(last, start)


@pytest.mark.parametrize(("clip", "most"), [(1e-3, 1e-3), (0.0, float("inf"))])
def test_dino_clips_the_gradient_of_each_tensor(clip, most):
    options = DINOSettings(prototypes=6, bottleneck=5, clip=clip, freeze_epochs=0.0)
    trained = training(settings("dino", dino=options))
    backward(trained, 0)
    before = [p.grad.clone() for p in trained.model.parameters()]
    trained.before_update()
    for parameter, gradient in zip(trained.model.parameters(), before, strict=True):
        norm = gradient.norm()
        expected = gradient * min(1.0, most / float(norm)) if norm > 0 else gradient
        torch.testing.assert_close(parameter.grad, expected, rtol=2e-2, atol=1e-8)
        assert parameter.grad.norm() <= most * (1 + 1e-5)


def test_the_scores_of_dino_are_cosines_in_float32_also_under_autocast():
    network = build_method(settings("dino")).online
    view = pixels(settings("dino"), 0)[0]
    with torch.autocast("cpu", torch.bfloat16):
        bottleneck = network(view)
        scores = network.projector.scores(bottleneck)
    assert bottleneck.dtype == torch.bfloat16
    assert scores.dtype == torch.float32
    expected = (
        normalize(bottleneck.float(), dim=-1) @ normalize(network.projector.last.weight, dim=-1).T
    )
    torch.testing.assert_close(scores, expected)


# ---- Whitening


def test_sub_batches_that_have_no_covariance_are_refused():
    with pytest.raises(UserError, match=r"wmse\.size is 8; .* Set it with --wmse\.size"):
        build_method(settings("wmse", wmse=WMSESettings(size=8)))  # as many as dimensions
    with pytest.raises(UserError, match=r"wmse\.size is 9; expected at most the batch size, 8"):
        build_method(settings("wmse", wmse=WMSESettings(size=9, epsilon=0.1)))


def test_groups_that_have_no_covariance_are_refused():
    with pytest.raises(UserError, match=r"dbn\.epsilon is 0; .* Set it with --dbn\.epsilon"):
        build_method(settings("dbn", dbn=DBNSettings(group=8, epsilon=0.0)))


def test_groups_of_dimensions_must_divide_the_head():
    with pytest.raises(UserError, match=r"dbn\.group is 4; expected a divisor of head\.out, 6"):
        build_method(settings("dbn", head=HeadSettings(hidden=12, out=6)))


# ---- Networks of the authors


@pytest.mark.parametrize(
    ("method", "head", "norm", "expected"),
    [
        ("simclr", {"output_norm": True}, "bn", "L+ B R L- N"),
        ("moco_v2", {}, "none", "L+ I R L+"),
        ("moco_v3", {"output_norm": True}, "bn", "L+ B R L- N"),
        ("swav", {}, "bn", "L+ B R L+"),
        ("deepcluster_v2", {}, "bn", "L+ B R L+"),
        ("simsiam", {"layers": 3, "output_norm": True}, "bn", "L+ B R L+ B R L- N"),
        ("barlow_twins", {"layers": 3}, "bn", "L+ B R L+ B R L-"),
        ("vicreg", {"layers": 3}, "bn", "L+ B R L+ B R L-"),
        ("byol", {}, "bn", "L+ B R L-"),
    ],
)
def test_projectors_have_the_layers_of_their_papers(method, head, norm, expected):
    """L: linear with (+) or without (-) bias, B: BatchNorm, N: BatchNorm without affine, R: ReLU, I: none."""
    config = settings(method, head=HeadSettings(hidden=12, out=8, **head), head_norm=norm)
    assert letters(build_method(config).online.projector) == expected


@pytest.mark.parametrize(
    ("method", "output_norm", "expected"),
    [
        ("simsiam", True, "L+ B R L+"),
        ("byol", False, "L+ B R L-"),
        ("moco_v3", True, "L+ B R L- N"),
    ],
)
def test_predictors_have_the_layers_of_their_papers(method, output_norm, expected):
    options = HeadSettings(hidden=12, out=8, output_norm=output_norm, predictor_hidden=3)
    predictor = build_method(settings(method, head=options)).online.predictor
    assert letters(predictor) == expected
    assert predictor[0].out_features == 3


def letters(head: torch.nn.Sequential) -> str:
    found = []
    for layer in head:
        if isinstance(layer, torch.nn.Linear):
            found.append("L-" if layer.bias is None else "L+")
        elif isinstance(layer, torch.nn.BatchNorm1d):
            found.append("B" if layer.affine else "N")
        else:
            found.append({"ReLU": "R", "Identity": "I"}[type(layer).__name__])
    return " ".join(found)


def test_the_head_of_dino_has_gelus_and_unit_prototypes():
    options = HeadSettings(hidden=12, layers=3)
    head = build_method(settings("dino", head=options)).online.projector
    names = [type(layer).__name__ for layer in head.layers]
    assert names == ["Linear", "GELU", "Linear", "GELU", "Linear"]
    features = torch.randn(
        4, head.layers[0].in_features, generator=torch.Generator().manual_seed(0)
    )
    scores = head.scores(head(features))
    assert scores.abs().max() <= 1 + 1e-6
    with torch.no_grad():
        head.last.weight *= 7  # the length of a prototype does not matter
    torch.testing.assert_close(head.scores(head(features)), scores)


@pytest.mark.parametrize("method", [name for name in ALL if name not in MULTI_CROP])
def test_local_views_are_refused_by_methods_without_multi_crop(method):
    augment = AugmentSettings(size=16, local_views=1, local_size=8)
    with pytest.raises(UserError, match="a method that takes local views: msbreg"):
        settings(method, augment=augment)
