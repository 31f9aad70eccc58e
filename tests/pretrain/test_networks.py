import pytest
import torch

from msbreg.backbones.resnet import build_backbone
from pretrain.methods.encoders import build_networks, head, update_target
from pretrain.recipe import Config, HeadSettings


def settings(**changes) -> Config:
    return Config(arch="resnet18-tiny", head=HeadSettings(hidden=16, out=8), **changes)


def test_the_target_starts_as_a_copy_and_has_no_gradient():
    online, target = build_networks(settings())
    followed = online.state_dict()
    for name, value in target.state_dict().items():
        assert torch.equal(value, followed[name])
    assert not any(p.requires_grad for p in target.parameters())
    assert not any(name.startswith("predictor") for name in target.state_dict())


def test_the_backbone_has_the_weights_of_its_untrained_twin():
    online, _ = build_networks(settings(seed=3))
    twin = build_backbone("resnet18-tiny", seed=3).state_dict()
    for name, value in online.backbone.state_dict().items():
        assert torch.equal(value, twin[name])


def test_the_same_seed_gives_the_same_heads():
    first, _ = build_networks(settings())
    second, _ = build_networks(settings())
    other, _ = build_networks(settings(seed=1))
    assert torch.equal(first.predictor[0].weight, second.predictor[0].weight)
    assert not torch.equal(first.predictor[0].weight, other.predictor[0].weight)


@pytest.mark.parametrize(
    ("norm", "kind"),
    [("bn", torch.nn.BatchNorm1d), ("ln", torch.nn.LayerNorm), ("none", torch.nn.Identity)],
)
def test_heads_have_a_norm_only_after_the_hidden_layer(norm, kind):
    layers = list(head(12, 16, 8, norm))
    assert [type(layer) for layer in layers] == [
        torch.nn.Linear,
        kind,
        torch.nn.ReLU,
        torch.nn.Linear,
    ]
    assert head(12, 16, 8, norm)(torch.ones(3, 12)).shape == (3, 8)
    assert layers[3].bias is None


def test_the_ema_updates_parameters_but_not_batch_norm_statistics():
    online, target = build_networks(settings())
    with torch.no_grad():
        for parameter in online.parameters():
            parameter.add_(1.0)
        online.backbone.bn1.running_mean.fill_(7.0)
    before = {name: value.clone() for name, value in target.named_parameters()}
    update_target(target, online, 0.75)
    followed = dict(online.named_parameters())
    for name, value in target.named_parameters():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * followed[name])
    assert target.backbone.bn1.running_mean.abs().max() == 0
