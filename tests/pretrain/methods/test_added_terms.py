"""``--add``: the loss of a method plus weighted terms on its predictions or projections."""

import copy

import pytest
import torch
from torch.nn.functional import normalize

from pretrain.methods.method import step_noise
from pretrain.recipe import LossSettings
from tests.pretrain.methods.small_methods import backward, pixels, settings, training
from tests.reference import losses as reference

WEIGHTS = {"lambda_s": 0.3, "lambda_b": 0.7, "lambda_u": 0.2}
TERMS = ("singular_value", "brownian", "uniformity")


def uniformity(view: torch.Tensor) -> torch.Tensor:
    unit = [row / row.norm() for row in view]
    potentials = [
        torch.exp(-2 * (unit[i] - unit[j]).square().sum())
        for i in range(len(unit))
        for j in range(i)
    ]
    return torch.log(sum(potentials) / len(potentials))


@pytest.mark.parametrize(
    ("method", "singular_input"),
    [
        ("simsiam", "raw"),
        ("simsiam", "l2"),
        ("simsiam", "l2_sqrt_d"),
        ("barlow_twins", "l2_sqrt_d"),
        ("byol", "l2_sqrt_d"),
    ],
)
def test_the_total_is_the_loss_plus_the_weighted_terms(method, singular_input):
    options = LossSettings(singular_input=singular_input)
    changes = {"loss": options, "views": 3, "optimizer": settings(method).optimizer}
    without = backward(training(settings(method, **changes)), 2)["total"]
    trained = training(settings(method, add=TERMS, **changes, **WEIGHTS))
    online = copy.deepcopy(trained.method.online)
    terms = backward(trained, 2)

    with torch.no_grad():
        outputs = [online(view) for view in pixels(trained.config, 2)]
    embeddings = torch.stack([o[1] if isinstance(o, tuple) else o for o in outputs]).double()
    noise = step_noise(0, 2, 8, 8, share="image").double()
    scale = {"raw": None, "l2": 1.0, "l2_sqrt_d": 8**0.5}[singular_input]
    singular = embeddings if scale is None else scale * normalize(embeddings, dim=-1)
    expected = {
        "singular_value": reference.singular_value_loss(singular),
        "brownian": reference.brownian_loss(embeddings, noise),
        "uniformity": torch.stack([uniformity(view) for view in embeddings]).mean(),
    }
    if method == "byol":  # it has a local view, and its own target
        assert trained.config.augment.local_views == 1
    for name, value in expected.items():
        torch.testing.assert_close(terms[name].double(), value, rtol=1e-4, atol=1e-5)
    weighted = zip(WEIGHTS.values(), expected.values(), strict=True)
    total = without.double() + sum(weight * value for weight, value in weighted)
    torch.testing.assert_close(terms["total"].double(), total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["swav", "dino", "moco_v2", "wmse"])
def test_added_terms_reach_the_gradient_of_the_backbone(method):
    gradients = []
    for weight in (0.0, 1.0):
        trained = training(settings(method, add=TERMS, lambda_s=weight, lambda_b=weight))
        backward(trained, 0)
        gradients.append(trained.model.backbone.conv1.weight.grad.clone())
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3, atol=1e-8)


def test_terms_added_to_dino_act_on_its_bottleneck():
    trained = training(settings("dino", add=("singular_value",)))
    online = copy.deepcopy(trained.method.online)
    terms = backward(trained, 0)
    with torch.no_grad():
        bottleneck = torch.stack([online(view) for view in pixels(trained.config, 0)]).double()
    scaled = 5**0.5 * normalize(bottleneck, dim=-1)
    expected = reference.singular_value_loss(scaled)
    torch.testing.assert_close(terms["singular_value"].double(), expected, rtol=1e-4, atol=1e-5)


def test_the_uniformity_loss_does_not_take_the_name_of_the_metric_in_the_curve():
    row = training(settings("simsiam")).row(2, {"total": 1.0, "uniformity": -3.0})
    assert row["uniformity_loss"] == -3.0
    assert "uniformity" not in row
