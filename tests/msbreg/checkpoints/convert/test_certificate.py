"""Every mistake in a conversion is found, and no file remains."""

import math
import re
from dataclasses import replace

import pytest
import torch

from msbreg.backbones.spec import IMAGENET, Normalization
from msbreg.checkpoints.convert.certificate import ConversionFailed, certify, compare, passed
from msbreg.checkpoints.convert.convert import TARGETS, convert
from msbreg.checkpoints.convert.target import STAGES
from msbreg.checkpoints.layouts.names import Place
from tests.msbreg.checkpoints.convert.realistic_networks import (
    THIN,
    moved,
    provenance,
    realistic,
    thin,
)

__all__ = ["thin"]  # a fixture

DETECTRON2 = TARGETS["detectron2"]


def tampered(change, target=DETECTRON2):
    """The target, writing a changed content."""
    return replace(target, encode=lambda content, suffix: target.encode(change(content), suffix))


def with_state(**tensors):
    return tampered(lambda content: replace(content, state=content.state | tensors))


def with_settings(**settings):
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return tampered(lambda content: replace(content, settings=content.settings | dotted))


def without(name):
    return tampered(
        lambda content: replace(
            content, state={k: v for k, v in content.state.items() if k != name}
        )
    )


def fails(tmp_path, target, message, arch="resnet18-narrow", **changes):
    """The conversion fails with this message, and its folder stays empty."""
    output = tmp_path / ("out" + target.suffixes[0])
    with pytest.raises(ConversionFailed, match=message):
        convert(moved(arch), provenance(arch, **changes), output, target)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensor_is_found(tmp_path):
    fails(tmp_path, without("res3.0.shortcut.weight"), r"missing  res3\.0\.shortcut\.weight")


def test_missing_statistics_are_found_although_frozen_norms_have_defaults(tmp_path):
    fails(tmp_path, without("stem.conv1.norm.running_var"), r"missing  stem\.conv1\.norm")


def test_a_tensor_with_permuted_channels_is_found(tmp_path):
    weight = moved().layer2[1].conv2.weight.detach()
    wrong = with_state(**{"res3.1.conv2.weight": weight.flip(0)})
    fails(tmp_path, wrong, r"changed  res3\.1\.conv2\.weight")


def test_a_tensor_of_lower_precision_is_found(tmp_path):
    weight = moved().layer2[1].conv2.weight.detach().half()
    wrong = with_state(**{"res3.1.conv2.weight": weight})
    fails(tmp_path, wrong, r"changed  res3\.1\.conv2\.weight")


def test_a_stray_head_is_found(tmp_path):
    fails(tmp_path, with_state(**{"stem.fc.weight": torch.ones(2)}), r"added    stem\.fc\.weight")


def test_every_single_corrupted_tensor_is_found(tmp_path):
    """One changed bit in any tensor, including counters."""
    output = tmp_path / "out.pkl"
    convert(moved(), provenance(), output, DETECTRON2)
    written, settings = DETECTRON2.decode(output)
    assert len(written) == 120
    for name, value in written.items():
        wrong = value.clone()
        wrong.view(-1).view(torch.uint8)[0] ^= 1
        corrupted = replace(
            DETECTRON2, decode=lambda path, s=written | {name: wrong}: (s, settings)
        )
        with pytest.raises(ConversionFailed, match=rf"  changed  {re.escape(name)}$"):
            certify(output, corrupted, {}, moved(), provenance().spec)


def test_the_wrong_channel_order_is_found(tmp_path):
    fails(tmp_path, with_settings(INPUT__FORMAT="BGR"), "stem  differs by .*e-01")


@pytest.mark.parametrize("key", ["PIXEL_MEAN", "PIXEL_STD"])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_thousandth_of_a_gray_level_is_found(tmp_path, key, channel):
    value = list(getattr(IMAGENET, key.lower()))
    value[channel] += 0.001
    fails(tmp_path, with_settings(**{f"MODEL__{key}": value}), "stem  differs by")


def test_stride_in_the_wrong_convolution_is_found(tmp_path, thin):
    wrong = with_settings(MODEL__RESNETS__STRIDE_IN_1X1=True)
    fails(tmp_path, wrong, "does not compute(.|\n)*differs by", arch=THIN)


def test_a_network_without_the_declared_stride_is_found(tmp_path, thin):
    fails(tmp_path, DETECTRON2, "does not compute(.|\n)*differs by", arch=THIN, stride="1x1")


def test_the_wrong_depth_is_found(tmp_path):
    wrong = with_settings(MODEL__RESNETS__DEPTH=34)
    fails(tmp_path, wrong, r"lacks the tensor 'res2\.2\.conv1\.weight'", arch="resnet18")


def test_settings_of_an_unknown_architecture_are_found(tmp_path):
    fails(tmp_path, with_settings(MODEL__RESNETS__DEPTH=34), "no backbone has depth 34, width 32")


def swapped(place: Place) -> Place:
    """Swap the two convolutions of the first block of res2, which have the same shape."""
    if (place.stage, place.block) == (1, 0) and not place.norm:
        return replace(place, layer=3 - place.layer)
    return place


def test_swapped_names_are_found_in_their_stage(tmp_path):
    wrong = replace(DETECTRON2, names=lambda place: DETECTRON2.names(swapped(place)))
    fails(tmp_path, wrong, r"allowed: 1e-10\):\n  res2  differs by")


def test_a_name_unknown_to_detectron2_is_found(tmp_path):
    wrong = replace(
        DETECTRON2, names=lambda p: DETECTRON2.names(p).replace("shortcut", "downsample")
    )
    fails(tmp_path, wrong, "lacks the tensor 'res3.0.shortcut.weight'")


def test_tensors_that_a_library_does_not_find_stop_the_conversion(tmp_path):
    target = TARGETS["torchvision"]
    wrong = replace(target, names=lambda place: "module." + target.names(place))
    wrong = replace(wrong, layout=replace(target.layout, **prefixed(target.layout)))
    fails(tmp_path, wrong, "torchvision .* could not load every tensor", arch="resnet18")


def test_tensors_that_a_library_skips_silently_are_found(tmp_path):
    target = TARGETS["timm"]
    wrong = replace(target, names=lambda place: "backbone." + target.names(place))
    wrong = replace(wrong, layout=replace(target.layout, **prefixed(target.layout, "backbone.")))
    fails(
        tmp_path,
        wrong,
        r"timm .* does not contain the tensors(.|\n)*missing  backbone\.",
        arch="resnet18",
    )


def prefixed(layout, prefix="module."):
    names = ("stem", "stem_norm", "convolution", "norm", "shortcut", "shortcut_norm")
    return {name: prefix + getattr(layout, name) for name in names}


def test_a_failing_reader_is_reported(tmp_path):
    def broken(path, settings, images):
        raise AttributeError("no such network in this version")

    wrong = replace(DETECTRON2, readers=(broken,))
    fails(tmp_path, wrong, "could not read the file back(.|\n)*no such network in this version")


@pytest.mark.parametrize(
    ("arch", "seed"),
    [("resnet18", 0), ("resnet50", 0), ("resnet101", 0)],
)
def test_a_correct_conversion_passes_despite_float32_rounding(tmp_path, arch, seed):
    """Realistic BatchNorm statistics: float32 rounds by more than 1e-6, float64 by less than 1e-12."""
    backbone = realistic(arch, seed)
    output = tmp_path / "out.pkl"
    certificate = convert(backbone, provenance(arch), output, DETECTRON2).certificate
    (errors,) = certificate["readings"][0]["errors"].values()
    assert max(error["relative"] for error in errors.values()) < 1e-12
    assert max(error["float32"] for error in errors.values()) > 1e-6


@pytest.mark.parametrize("target", ["detectron2", "mmseg", "huggingface"])
def test_a_normalization_without_a_short_decimal_is_written_exactly(tmp_path, target):
    odd = Normalization((1 / 3, 0.123456789012345, 2 / 7), (1 / 7, 0.2, 0.3))
    target = replace(TARGETS[target], readers=())
    output = tmp_path / ("out" + (target.suffixes or ("",))[0])
    certificate = convert(moved(), provenance(normalization=odd), output, target).certificate
    (errors,) = certificate["readings"][0]["errors"].values()
    assert errors["stem"]["relative"] < 1e-13


def test_nan_and_wrong_shapes_do_not_pass():
    def errors(found, wanted, single=1.0):
        both = {torch.float64: found, torch.float32: torch.tensor(single)}
        right = {torch.float64: wanted, torch.float32: torch.tensor(1.0)}
        return compare(
            *({k: dict.fromkeys(STAGES, v) for k, v in x.items()} for x in (both, right))
        )

    assert passed(errors(torch.zeros(2), torch.zeros(2)))
    assert passed(errors(torch.ones(2), torch.ones(2)))
    assert not passed(errors(torch.tensor([1.0, math.nan]), torch.ones(2)))
    assert not passed(errors(torch.ones(2), torch.ones(3)))
    assert not passed(errors(torch.ones(2), torch.ones(2), single=math.nan))
