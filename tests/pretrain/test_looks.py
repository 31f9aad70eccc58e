"""A look of the monitor at each method: what it measures, and that it changes nothing."""

import copy

import pytest
import torch
from torch import Tensor

from msbreg.backbones.resnet import normalize
from pretrain.losses import added_terms
from pretrain.method_settings import (
    DBNSettings,
    DeepClusterV2Settings,
    DINOSettings,
    MoCoV2Settings,
    SwAVSettings,
    VICRegSettings,
    WMSESettings,
)
from pretrain.methods import METHODS, build_method
from pretrain.methods.method import step_noise
from pretrain.monitor import Monitor
from pretrain.recipe import Config, DiagnosticsSettings, HeadSettings, LossSettings
from pretrain.training import PreTraining
from tests.reference import losses as reference

CPU = torch.device("cpu")
VIEWS, IMAGES, DIMENSIONS = 3, 6, 4
ALL_TERMS = ("singular_value", "brownian", "uniformity")


def pixels(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (*shape, 3, 16, 16), generator=generator).to(torch.uint8)


def training(method: str, **changes) -> PreTraining:
    settings = {
        "arch": "resnet18-tiny",
        "views": VIEWS,
        "batch_size": IMAGES,
        "lambda_s": 0.1,
        "lambda_b": 0.7,
        "head": HeadSettings(hidden=8, out=DIMENSIONS),
        "loss": LossSettings(singular_input="raw"),
        "moco_v2": MoCoV2Settings(queue=16),
        "swav": SwAVSettings(prototypes=8, queue=6, queue_from_epoch=0),
        "deepcluster_v2": DeepClusterV2Settings(clusters=(2,)),
        "dino": DINOSettings(prototypes=8, bottleneck=DIMENSIONS),
        "vicreg": VICRegSettings(invariance=3.0, variance=2.0, covariance=0.5),
        "wmse": WMSESettings(size=6),
        "dbn": DBNSettings(group=4),
    }
    own = {name: value for name, value in settings.items() if name not in METHODS or name == method}
    config = Config(method=method, **own | changes)
    made = build_method(config)
    made.allocate(IMAGES)
    made.to(CPU, synchronize=False)
    made.train_mode()
    with torch.no_grad():  # otherwise targets equal the online projections
        for name, network in made.networks().items():
            for parameter in network.parameters():
                parameter.mul_(0.9 if name == "target" else 1.0)
    trained = PreTraining(made, config, CPU, steps=4, epoch=2)
    trained.step = 1
    return trained


def in_eval_mode(trained: PreTraining) -> PreTraining:
    for network in trained.method.networks().values():
        network.eval()
    return trained


def added(method: str) -> tuple[str, ...]:
    return ALL_TERMS if method != "msbreg" else ("uniformity",)


def flat(state, name: str = "") -> dict[str, object]:
    items = state.items() if isinstance(state, dict) else [(name, state)]
    return {
        k: v
        for key, value in items
        for k, v in (
            flat(value, f"{name}.{key}").items()
            if isinstance(value, dict)
            else [(f"{name}.{key}", value)]
        )
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_look_changes_nothing(method, tmp_path):
    trained = training(method, add=added(method))
    monitor = Monitor(
        tmp_path,
        DiagnosticsSettings(),
        views=pixels(2, 8),
        batch=pixels(VIEWS, IMAGES),
        labeled=None,
        size=16,
        device=CPU,
        first_step=0,
    )
    before = copy.deepcopy(flat(trained.state_dict()))
    attributes = {k: v for k, v in vars(trained.method).items() if k != "memory"}
    generator = torch.get_rng_state()
    report = monitor.evaluate(trained)
    after = flat(trained.state_dict())
    assert before.keys() == after.keys()
    for name, value in after.items():
        old = before[name]
        assert torch.equal(old, value) if isinstance(value, Tensor) else old == value, name
    now = {k: v for k, v in vars(trained.method).items() if k != "memory"}
    assert all(now[name] is value for name, value in attributes.items())
    assert now.keys() == attributes.keys()
    assert all(p.grad is None for p in trained.model.parameters())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(m.training for net in trained.method.networks().values() for m in net.modules())
    assert {"rankme", "rankme_backbone", "identity_deviation"} <= report.keys()
    assert ("force/uniformity" in report) == (method != "deepcluster_v2")


@pytest.mark.parametrize("add", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_forces_add_up_to_the_gradient_of_the_loss(method, add):
    trained = in_eval_mode(training(method, add=added(method) if add else ()))
    views = pixels(VIEWS, IMAGES)
    forces = trained.forces(views)
    if not forces:
        assert method == "deepcluster_v2" or not add
        assert method not in ("msbreg", "vicreg")
        return
    total = []
    for leaves, loss in trained._losses_of_outputs(views):
        rows = sum(len(leaf) for leaf in leaves)
        total += [gradient * rows for gradient in torch.autograd.grad(loss.total, leaves)]
    expected = torch.cat(total)
    difference = (sum(forces.values()) - expected).norm()
    assert difference <= 1e-4 * sum(force.norm() for force in forces.values())  # float32


def test_the_forces_of_msbreg_are_the_gradients_of_its_equations():
    """Image by image in float64; the weights are those of the settings."""
    trained = in_eval_mode(training("msbreg"))
    views = pixels(VIEWS, IMAGES)
    with torch.no_grad():
        inputs = [normalize(view, CPU) for view in views]
        predictions = torch.stack([trained.method.online(x) for x in inputs]).double()
        targets = torch.stack([trained.method.target(x) for x in inputs]).double()
    noise = step_noise(0, 1, IMAGES, DIMENSIONS, share="image").double()
    predictions.requires_grad_()
    terms = {
        "centroid": reference.centroid_loss(predictions, targets),
        "singular_value": 0.1 * reference.singular_value_loss(predictions),
        "brownian": 0.7 * reference.brownian_loss(predictions, noise),
    }
    forces = trained.forces(views)
    assert list(forces) == list(terms)
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, predictions)
        expected = gradient.flatten(0, 1) * VIEWS * IMAGES
        torch.testing.assert_close(forces[name].double(), expected, rtol=1e-3, atol=1e-5)


def test_the_forces_of_vicreg_have_its_weights():
    names = ("invariance", "variance", "covariance")
    trained = in_eval_mode(training("vicreg"))
    doubled = in_eval_mode(
        training("vicreg", vicreg=VICRegSettings(invariance=6.0, variance=2.0, covariance=0.5))
    )
    one, other = (t.forces(pixels(VIEWS, IMAGES)) for t in (trained, doubled))
    assert tuple(one) == names
    torch.testing.assert_close(other["invariance"], 2 * one["invariance"])
    torch.testing.assert_close(other["covariance"], one["covariance"])


def test_an_added_term_stands_beside_the_loss_of_the_method():
    trained = in_eval_mode(training("simclr", add=("uniformity",), lambda_u=0.25))
    views = pixels(VIEWS, IMAGES)
    forces = trained.forces(views)
    assert list(forces) == ["simclr", "uniformity"]
    with torch.no_grad():
        outputs = torch.stack([trained.model(normalize(view, CPU)) for view in views])
    outputs.requires_grad_()
    (term,) = added_terms(outputs, outputs[0], ("uniformity",)).values()
    (gradient,) = torch.autograd.grad(0.25 * term, outputs)
    expected = gradient.flatten(0, 1) * VIEWS * IMAGES
    torch.testing.assert_close(forces["uniformity"], expected, rtol=1e-4, atol=1e-6)


def test_forces_do_not_depend_on_the_number_of_copies_of_the_images():
    """A term that is a mean over images has the same force on each if every image appears twice."""
    trained = in_eval_mode(training("vicreg"))
    views = pixels(VIEWS, IMAGES)
    one, two = (trained.forces(v)["invariance"] for v in (views, views.repeat(1, 2, 1, 1, 1)))
    rows = two.view(VIEWS, 2, IMAGES, -1)
    torch.testing.assert_close(rows[:, 0].flatten(0, 1), one, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "dino"])
def test_what_is_regularized_is_the_last_output_of_the_trained_network(method):
    trained = in_eval_mode(training(method))
    images = normalize(pixels(IMAGES), CPU)
    with torch.no_grad():
        outputs = trained.model(images)
        expected = outputs[-1] if isinstance(outputs, tuple) else outputs
        predicted = trained.method.predict(trained.method.project(images))
    torch.testing.assert_close(predicted, expected)
