"""Dilated backbones compute what strided ones do, denser; heads have MMSegmentation's layers."""

import copy

import pytest
import torch
import torch.nn.functional as F

from msbreg.backbones.resnet import ResNet, build_backbone, stride_in_1x1
from msbreg.backbones.spec import BackboneSpec
from msbreg.run.errors import UserError
from transfer.segmenters.fcn import build_fcn, dilate
from transfer.segmenters.segmentation_config import NetworkOptions

TINY = BackboneSpec("resnet18-narrow")


def images(side: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet50() -> ResNet:
    return build_backbone("resnet50").eval()


@pytest.mark.parametrize(("stride", "dilations"), [(16, [1, 1, 2]), (8, [1, 2, 4]), (4, [2, 4, 8])])
def test_stages_without_stride_are_dilated(stride, dilations):
    backbone = dilate(build_backbone("resnet18-narrow"), stride)
    blocks = [layer[-1] for layer in (backbone.layer2, backbone.layer3, backbone.layer4)]
    assert [(b.conv1.dilation[0], b.conv2.dilation[0]) for b in blocks] == [
        (dilation, 1) for dilation in dilations
    ]
    with torch.no_grad():
        assert backbone.eval()(images())["c5"].shape[-1] == 64 // stride


@pytest.mark.parametrize("v1", [False, True])
def test_a_dense_block_has_the_strided_outputs_at_every_second_place(resnet50, v1):
    backbone = copy.deepcopy(resnet50)
    if v1:
        stride_in_1x1(backbone)
    c4 = torch.randn(1, 1024, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        strided = backbone.layer4[0](c4)
        block = dilate(backbone, 16).layer4[0]
        if v1:  # its 3x3 convolution sees every second place
            assert block.conv2.dilation == (2, 2)
        else:  # without dilation, it sees the places of the strided one
            block.conv2.dilation = block.conv2.padding = (1, 1)
        dense = block(c4)
    # Convolutions with and without strides add in different orders.
    torch.testing.assert_close(dense[..., ::2, ::2], strided, rtol=1e-3, atol=1e-3)


def test_contracted_dilation_halves_that_of_the_first_block(resnet50):
    backbone = dilate(copy.deepcopy(resnet50), 8, contract=True)
    found = [[b.conv2.dilation[0] for b in s] for s in (backbone.layer3, backbone.layer4)]
    assert found == [[1, 2, 2, 2, 2, 2], [2, 4, 4]]


def test_a_stride_below_that_of_the_stem_is_an_error():
    with pytest.raises(UserError, match="expected one of 4, 8, 16, 32"):
        dilate(build_backbone("resnet18-narrow"), 64)


def test_the_heads_of_fcn_d8_have_the_names_and_shapes_of_mmsegmentation():
    options = NetworkOptions(
        output_stride=8, channels=512, dilation=1, concatenate=True, dropout=0.1, auxiliary=0.4
    )
    network = build_fcn(TINY, 21, options)
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items() if v.ndim == 4}
    assert {k: v for k, v in shapes.items() if not k.startswith("backbone.")} == {
        "decode_head.convs.0.conv.weight": (512, 256, 3, 3),
        "decode_head.convs.1.conv.weight": (512, 512, 3, 3),
        "decode_head.conv_cat.conv.weight": (512, 768, 3, 3),
        "decode_head.conv_seg.weight": (21, 512, 1, 1),
        "auxiliary_head.convs.0.conv.weight": (256, 128, 3, 3),
        "auxiliary_head.conv_seg.weight": (21, 256, 1, 1),
    }


def test_losses_are_sums_over_labeled_pixels_with_the_weight_of_their_head():
    network = build_fcn(TINY, 3, NetworkOptions(auxiliary=0.4, channels=8)).eval()
    network.training = True  # both heads, but BatchNorm without batch statistics
    labels = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(1))
    labels[0, :9] = 255
    with torch.no_grad():
        found = network(images(), labels, 10.0)
        for name, weight in (("decode", 1.0), ("auxiliary", 0.4)):
            logits = F.interpolate(network.logits(images())[name], (64, 64), mode="bilinear")
            each = F.cross_entropy(logits, labels.clamp(max=2), reduction="none")
            expected = weight * each[labels != 255].sum() / 10
            torch.testing.assert_close(found[f"loss_{name}"], expected)


@pytest.mark.parametrize(
    ("freeze", "trained", "statistics"),
    [("nothing", True, True), ("statistics", True, False), ("backbone", False, False)],
)
def test_what_is_frozen_stays(freeze, trained, statistics):
    network = build_fcn(TINY, 3, NetworkOptions(channels=8, freeze=freeze)).train()
    before = {k: v.clone() for k, v in network.backbone.state_dict().items()}
    sum(network(images(), torch.zeros(2, 64, 64).long(), 100.0).values()).backward()
    after = network.backbone.state_dict()
    gradients = any(p.grad is not None for p in network.backbone.parameters())
    changed = any(not torch.equal(before[k], after[k]) for k in before)
    assert (gradients, changed) == (trained, statistics)
    assert network.decode_head.conv_seg.weight.grad is not None


def test_logits_have_the_size_of_odd_images():
    network = build_fcn(TINY, 3, NetworkOptions(head="linear")).eval()
    with torch.no_grad():
        assert network(images(45)).shape == (2, 3, 45, 45)
