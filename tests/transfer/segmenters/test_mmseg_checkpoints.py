"""Converted files are certified by MMSegmentation's own ResNet, and its own checkpoints are read."""

import pytest
import torch

from msbreg.backbones.resnet import build_backbone
from msbreg.backbones.spec import BackboneSpec, Provenance
from msbreg.checkpoints.convert.certificate import ConversionFailed
from msbreg.checkpoints.convert.convert import TARGETS, convert
from msbreg.checkpoints.load import load_resnet
from msbreg.run.errors import UserError
from tests.transfer.segmenters.mmseg_cases import MSRA
from tests.transfer.segmenters.mmseg_twin import engine, its_warnings, needs_mmseg
from tools.convert_to_d2 import readers_of
from transfer.segmenters.mmseg_config import network_config
from transfer.segmenters.segmentation_config import NetworkOptions

pytestmark = needs_mmseg
MMSEG = TARGETS["mmseg"]


def converted(tmp_path, spec, target=MMSEG, readers=None):
    backbone = build_backbone(spec, seed=0).eval()
    for name, value in backbone.state_dict().items():
        if "running" in name or "bn" in name:
            value += (
                torch.rand(value.shape).to(value.dtype) * 0.1 if value.is_floating_point() else 0
            )
    provenance = Provenance("x.pth", "msbreg", "target", spec, "0" * 64, 1, {})
    path = tmp_path / "backbone_mmseg.pth"
    readers = readers_of(MMSEG) if readers is None else readers
    return convert(backbone, provenance, path, target, readers=readers)


@pytest.mark.parametrize(
    "spec",
    [
        BackboneSpec("resnet18-narrow"),
        BackboneSpec("resnet50"),
        BackboneSpec("resnet50", MSRA, stride_in_1x1=True),
    ],
    ids=["narrow", "v1.5", "caffe"],
)
def test_its_resnet_certifies_a_converted_file(tmp_path, spec):
    certificate = converted(tmp_path, spec).certificate
    formulas, theirs = certificate["readings"]
    assert theirs["reader"].startswith("mmsegmentation 1.")
    assert theirs["tensors"] == formulas["tensors"] == len(build_backbone(spec).state_dict())
    (stages,) = theirs["errors"].values()
    assert max(stage["relative"] for stage in stages.values()) < 1e-12


def test_a_wrong_style_is_found_by_its_resnet(tmp_path):
    (read,) = readers_of(MMSEG)

    def in_caffes_style(path, settings, images):
        return read(
            path, settings | {"backbone": settings["backbone"] | {"style": "caffe"}}, images
        )

    with pytest.raises(ConversionFailed, match="mmsegmentation"):
        converted(tmp_path, BackboneSpec("resnet50"), readers=(in_caffes_style,))


HEADS = {
    "fcn": {},
    "psp": {"type": "PSPHead", "pool_scales": (1, 2, 3, 6)},
    "uper": {
        "type": "UPerHead",
        "in_channels": [64, 128, 256, 512],
        "in_index": [0, 1, 2, 3],
        "pool_scales": (1, 2, 3, 6),
    },
}


def published(tmp_path, head, backbone="ResNet"):
    """A file as its CheckpointHook and tools/model_converters/publish_model.py write it, and its backbone."""
    engine()
    from mmengine.registry import DefaultScope
    from mmengine.runner.checkpoint import save_checkpoint
    from mmseg.registry import MODELS

    settings = network_config(
        BackboneSpec("resnet18"), 5, NetworkOptions(channels=16, auxiliary=0.4)
    )
    settings["backbone"]["type"] = backbone
    if HEADS[head]:
        for name in ("num_convs", "concat_input", "dilation"):
            del settings["decode_head"][name]
        settings["decode_head"] |= HEADS[head]
    settings["data_preprocessor"] = {
        "type": "SegDataPreProcessor",
        "mean": [1.0],
        "std": [1.0],
        "size": (8, 8),
    }
    with its_warnings(), DefaultScope.overwrite_default_scope("mmseg"):
        model = MODELS.build(settings)
    path = tmp_path / f"{head}.pth"
    meta = {
        "mmseg_version": "1.4.2",
        "dataset_meta": {"classes": ("road", "sky")},
        "epoch": 0,
        "iter": 8,
    }
    save_checkpoint({"meta": meta, "state_dict": model.state_dict(), "message_hub": {}}, str(path))
    return path, model.backbone.state_dict()


@pytest.mark.parametrize("head", HEADS)
def test_the_backbone_of_its_checkpoint_is_read(tmp_path, head):
    path, state = published(tmp_path, head)
    backbone, provenance = load_resnet(path)
    assert (provenance.family, provenance.encoder) == ("openmmlab", "backbone")
    found = backbone.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_a_deep_stem_is_refused(tmp_path):
    path, _ = published(tmp_path, "fcn", backbone="ResNetV1c")
    with pytest.raises(UserError, match="It contains a deep stem \\(ResNet-C or -D\\)"):
        load_resnet(path)
