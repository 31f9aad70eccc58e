"""Detectron2's network and loader on converted files; skipped if it is not installed."""

import pytest
import torch

from msbreg.backbones.spec import IMAGENET, BackboneSpec
from msbreg.checkpoints.convert.certificate import ConversionFailed, features_of
from msbreg.checkpoints.convert.convert import TARGETS, convert
from msbreg.checkpoints.convert.target import Content, prepared
from msbreg.checkpoints.layouts.format import MSRA
from msbreg.checkpoints.layouts.names import to_dialect
from tests.msbreg.checkpoints.convert.realistic_networks import moved, provenance
from transfer.detectors import detectron2_engine

DETECTRON2 = TARGETS["detectron2"]
pytestmark = pytest.mark.skipif(
    not detectron2_engine.available(), reason="Detectron2 is not installed"
)


def written(folder, arch, *, suffix=".pkl", v1=False, normalization=IMAGENET):
    describe_error = provenance(arch, normalization=normalization, stride="1x1" if v1 else "3x3")
    output = folder / ("out" + suffix)
    return convert(
        moved(arch, v1=v1), describe_error, output, DETECTRON2, readers=(detectron2_engine.read,)
    )


@pytest.fixture(scope="module")
def resnet50(tmp_path_factory):
    return written(tmp_path_factory.mktemp("resnet50"), "resnet50")


def test_detectron2_loads_318_of_318_tensors_with_bn_and_265_of_265_with_frozen_bn(resnet50):
    readings = {r["reader"]: r["tensors"] for r in resnet50.certificate["readings"]}
    version = detectron2_engine.version()
    assert readings == {
        "formulas": 318,
        f"detectron2 {version}, BN": 318,
        f"detectron2 {version}, FrozenBN": 265,
    }


@pytest.mark.parametrize("size", [(96, 128), (97, 129)], ids=["even", "odd"])
@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_features_of_the_same_pixels_are_equal(resnet50, norm, size):
    words = resnet50.certificate["settings"]
    network = detectron2_engine.build_backbone(words, norm=norm).eval()
    detectron2_engine.load(network, resnet50.output)
    images = torch.randint(
        0, 256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    spec = DETECTRON2.understand(words)
    wanted = features_of(moved("resnet50"), spec, images, torch.float64)
    with torch.no_grad():
        found = network.double()(prepared(images, spec.normalization, torch.float64))
    for stage, right in wanted.items():
        torch.testing.assert_close(found[stage], right, rtol=1e-12, atol=1e-12)


def test_pth_and_pkl_files_are_read_alike(tmp_path):
    conversion = written(tmp_path, "resnet18", suffix=".pth")
    assert [r["tensors"] for r in conversion.certificate["readings"]] == [120, 120, 100]


def test_a_narrow_network_is_built_from_detectron2s_parts(tmp_path):
    conversion = written(tmp_path, "resnet18-narrow")
    assert [r["tensors"] for r in conversion.certificate["readings"]] == [120, 120, 100]


def test_a_v1_network_with_caffes_input_is_read_with_its_own_settings(tmp_path):
    conversion = written(tmp_path, "resnet50", v1=True, normalization=MSRA)
    assert len(conversion.certificate["readings"]) == 3


@pytest.mark.parametrize(
    ("norm", "name"),
    [("BN", "stem.conv1.norm.running_var"), ("FrozenBN", "stem.conv1.weight")],
)
def test_incompatible_keys_that_detectron2_logs_are_returned(tmp_path, norm, name):
    state = to_dialect(moved().state_dict(), DETECTRON2.names) | {"stray": torch.zeros(1)}
    del state[name]
    words = DETECTRON2.express(BackboneSpec("resnet18-narrow", IMAGENET))
    path = tmp_path / "out.pkl"
    path.write_bytes(DETECTRON2.encode(Content(state, words, {}), ".pkl")[""])
    problems = detectron2_engine.load(detectron2_engine.build_backbone(words, norm=norm), path)
    assert f"not found in the checkpoint: backbone.{name}" in problems
    assert "unexpected: stray" in problems


def test_detectron2_also_detects_a_different_stride(tmp_path):
    def swapped(path, words, images):
        return detectron2_engine.read(path, words | {"MODEL.RESNETS.STRIDE_IN_1X1": True}, images)

    with pytest.raises(ConversionFailed, match=r"Read by detectron2 .*, BN"):
        convert(
            moved("resnet50"),
            provenance("resnet50"),
            tmp_path / "out.pkl",
            DETECTRON2,
            readers=(swapped,),
        )
    assert list(tmp_path.iterdir()) == []
