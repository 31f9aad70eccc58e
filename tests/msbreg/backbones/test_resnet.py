import pytest
import torch
import torchvision

from msbreg.backbones.resnet import BACKBONES, build_backbone, embed
from msbreg.run.errors import UserError

SMALL = [name for name in BACKBONES if "-" in name]
TORCHVISION = [name for name in BACKBONES if "-" not in name]


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone_keeps_the_contract(name):
    backbone = build_backbone(name, seed=0).eval()
    size = 32 if name in SMALL else 64
    with torch.inference_mode():
        stages = backbone(torch.zeros(2, 3, size, size))
    assert list(stages) == ["c2", "c3", "c4", "c5"]
    sides = [stages[s].shape[-1] for s in stages]
    assert all(a == 2 * b for a, b in zip(sides, sides[1:], strict=False))
    assert {name: stage.shape[1] for name, stage in stages.items()} == backbone.channels
    assert embed(backbone, torch.zeros(2, 3, size, size)).shape == (2, backbone.channels["c5"])


@pytest.mark.parametrize("name", TORCHVISION)
def test_published_backbones_are_torchvisions(name):
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    ours = build_backbone(name).eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(embed(ours, images), theirs(images))


def test_resnet50_has_318_tensors_and_23508032_parameters():
    backbone = build_backbone("resnet50")
    assert len(backbone.state_dict()) == 318
    assert sum(p.numel() for p in backbone.parameters()) == 23_508_032


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    first = build_backbone("resnet18-tiny", seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    second = build_backbone("resnet18-tiny", seed=3).state_dict()
    other = build_backbone("resnet18-tiny", seed=4).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match=r"'resnet19' is unknown; expected one of: resnet18, "):
        build_backbone("resnet19")
