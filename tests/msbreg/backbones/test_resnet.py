import pytest
import torch
import torchvision
from torchvision.models.resnet import BasicBlock, Bottleneck

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.backbones.resnet import ResNet, build_backbone, embed
from msbreg.backbones.spec import BackboneSpec
from msbreg.run.errors import UserError

SMALL = [name for name in ARCHITECTURES if "-" in name]
TORCHVISION = ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2"]
LARGE = ["resnet200", "resnet50_2x", "resnet50_4x", "resnet200_2x"]  # 63 to 376 million parameters


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in LARGE])
def test_every_backbone_has_the_documented_stages(name):
    backbone = build_backbone(name, initialize=False).eval()
    size = 32 if name in SMALL else 64
    with torch.inference_mode():
        stages = backbone(torch.zeros(2, 3, size, size))
    assert list(stages) == ["c2", "c3", "c4", "c5"]
    sides = [stages[s].shape[-1] for s in stages]
    assert all(a == 2 * b for a, b in zip(sides, sides[1:], strict=False))
    assert {name: stage.shape[1] for name, stage in stages.items()} == backbone.channels
    assert embed(backbone, torch.zeros(2, 3, size, size)).shape == (2, backbone.channels["c5"])


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_table_gives_names_shapes_and_order_of_all_tensors(name):
    state = ResNet(ARCHITECTURES[name], initialize=False).state_dict()
    assert [(k, tuple(v.shape)) for k, v in state.items()] == [*ARCHITECTURES[name].shapes.items()]


@pytest.mark.parametrize("name", TORCHVISION)
def test_published_backbones_match_torchvision(name):
    ours = build_backbone(name, seed=0).eval()
    with torch.device("meta"):
        theirs = getattr(torchvision.models, name)(weights=None).eval()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(ours.state_dict(), assign=True)
    images = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(embed(ours, images), theirs(images))


def state_of_version_0_1_0(name):
    """Drawn in the order of version 0.1.0: torchvision's network, different parts, all convolutions."""
    a = ARCHITECTURES[name]
    block = Bottleneck if a.bottleneck else BasicBlock
    theirs = torchvision.models.resnet.ResNet(block, list(a.blocks))
    del theirs.fc
    if a.stem != "imagenet":
        theirs.conv1 = torch.nn.Conv2d(3, a.width, 3, bias=False)
    elif a.width != 64:
        theirs.conv1 = torch.nn.Conv2d(3, a.width, 7, bias=False)
    if a.width != 64:
        theirs.bn1, theirs.inplanes = torch.nn.BatchNorm2d(a.width), a.width
        for stage in range(4):
            stride = 1 if stage == 0 else 2
            layer = theirs._make_layer(block, a.width * 2**stage, a.blocks[stage], stride)
            setattr(theirs, f"layer{stage + 1}", layer)
    for module in theirs.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return theirs.state_dict()


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet18-cifar", "resnet18-narrow"])
def test_seeded_weights_equal_those_of_version_0_1_0(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        wanted = state_of_version_0_1_0(name)
    found = build_backbone(name, seed=0).state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_stride_2_is_in_the_convolution_given_by_the_spec():
    modern, old = (
        build_backbone("resnet50"),
        build_backbone(BackboneSpec("resnet50", stride_in_1x1=True)),
    )
    assert (modern.layer2[0].conv1.stride, modern.layer2[0].conv2.stride) == ((1, 1), (2, 2))
    assert (old.layer2[0].conv1.stride, old.layer2[0].conv2.stride) == ((2, 2), (1, 1))


def test_resnet50_has_318_tensors_and_23508032_parameters():
    backbone = build_backbone("resnet50")
    assert len(backbone.state_dict()) == 318
    assert sum(p.numel() for p in backbone.parameters()) == 23_508_032


def test_seeded_weights_are_reproducible_without_the_global_generator():
    before = torch.get_rng_state()
    first = build_backbone("resnet18-tiny", seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    second = build_backbone("resnet18-tiny", seed=3).state_dict()
    other = build_backbone("resnet18-tiny", seed=4).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_an_unknown_name_lists_the_known_names():
    with pytest.raises(
        UserError,
        match=r"'resnet19' is unknown; did you mean resnet18\?\nExpected one of: resnet18, ",
    ):
        build_backbone("resnet19")
