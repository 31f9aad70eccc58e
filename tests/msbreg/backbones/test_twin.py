"""The untrained twin has the architecture, input and stride of its network, but random weights."""

import torch

from msbreg.backbones.resnet import build_backbone
from msbreg.backbones.spec import BackboneSpec, Normalization
from msbreg.backbones.twin import random_backbone

CAFFE = Normalization((0.4, 0.45, 0.48), (1 / 255, 1 / 255, 1 / 255), "BGR")


def test_the_twin_has_the_input_and_stride_of_its_network():
    spec = BackboneSpec("resnet50", CAFFE, stride_in_1x1=True, image_size=160)
    backbone, provenance = random_backbone(spec, seed=0)
    assert provenance.spec == spec
    assert backbone.layer3[0].conv1.stride == (2, 2)
    assert not backbone.training
    record = provenance.as_dict()
    assert (record["stride"], record["image_size"]) == ("1x1", 160)
    assert record["normalization"]["channels"] == "BGR"


def test_the_spec_does_not_change_the_weights_of_a_seed():
    plain, one = random_backbone("resnet18-tiny", seed=3)
    other, two = random_backbone(BackboneSpec("resnet18-tiny", CAFFE, image_size=32), seed=3)
    wanted = build_backbone("resnet18-tiny", seed=3).state_dict()
    assert one.sha256 == two.sha256
    assert all(torch.equal(plain.state_dict()[k], wanted[k]) for k in wanted)
    assert all(torch.equal(other.state_dict()[k], wanted[k]) for k in wanted)
