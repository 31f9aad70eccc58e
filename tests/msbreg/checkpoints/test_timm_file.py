"""Files in timm's layout load into the model of timm that the user names."""

import pytest
import timm
import torch

from msbreg.checkpoints.load import load_backbone
from msbreg.run.errors import UserError
from tests.msbreg.backbones.toy_transformers import images

NAME = "timm/resnet10t"


@pytest.fixture
def model() -> torch.nn.Module:
    made = timm.create_model("resnet10t", num_classes=3)
    generator = torch.Generator().manual_seed(0)
    for name, value in made.state_dict().items():
        if value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
        elif name.endswith("num_batches_tracked"):
            value.fill_(7)
    return made.eval()


@pytest.mark.parametrize("place", [None, "state_dict", "model"])
def test_features_are_timms_pooled_features(tmp_path, model, place):
    path = tmp_path / "timm.pth"
    state = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save({place: state} if place else state, path)
    backbone, provenance = load_backbone(path, arch=NAME)
    pixels = images(64, 2)
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(pixels), pre_logits=True)
        found = backbone.represent(pixels, "pooled")
    assert torch.equal(found, wanted)
    assert (provenance.family, provenance.arch) == ("timm", NAME)
    assert provenance.encoder == (place or "file")
    assert provenance.notes == ("dropped the classifier: fc.weight, fc.bias",)
    assert provenance.warnings == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("layer1.0.conv1.weight"), r"missing      layer1\.0\.conv1\.weight"),
        (lambda s: s.update({"extra": torch.ones(1)}), r"unexpected   extra \(1,\)"),
        (lambda s: s["bn1.weight"].fill_(float("nan")), r"not finite   bn1\.weight"),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path, model, change, words):
    state = model.state_dict()
    change(state)
    torch.save(state, tmp_path / "timm.pth")
    with pytest.raises(UserError, match=words):
        load_backbone(tmp_path / "timm.pth", arch=NAME)


def test_the_requested_entry_is_used_or_the_content_is_shown(tmp_path, model):
    other = {k: v + 1 for k, v in model.state_dict().items()}
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": other}, tmp_path / "timm.pth")
    backbone, _ = load_backbone(tmp_path / "timm.pth", arch=NAME, encoder="average")
    assert torch.equal(backbone.model.conv1[0].weight, other["conv1.0.weight"])
    with pytest.raises(UserError, match=r"no state dict of timm in 'model'. It contains: state_di"):
        load_backbone(tmp_path / "timm.pth", arch=NAME, encoder="model")
    with pytest.raises(UserError, match="--encoder is 'best'; for a model of timm, expected file"):
        load_backbone(tmp_path / "timm.pth", arch=NAME, encoder="best")


def test_half_precision_is_converted_and_noted(tmp_path, model):
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    torch.save(state, tmp_path / "timm.pth")
    backbone, provenance = load_backbone(tmp_path / "timm.pth", arch=NAME)
    assert backbone.model.bn1.weight.dtype == torch.float32
    assert "weights were stored as float16 and converted to float32" in provenance.notes
