"""Every mistake that a conversion can make stops it, and nothing is left on the disk."""

import math
from dataclasses import replace

import pytest
import torch

from msbreg.backbones.spec import IMAGENET, Normalization
from msbreg.checkpoints.convert.certificate import ConversionFailed, certify, difference, passed
from msbreg.checkpoints.convert.convert import convert
from msbreg.checkpoints.convert.targets import TARGETS
from msbreg.checkpoints.layouts.names import Place
from tests.msbreg.checkpoints.convert.realistic_networks import THIN, moved, provenance

DETECTRON2 = TARGETS["detectron2"]


def tampered(change, target=DETECTRON2):
    """The target with another content in its files than was given."""
    return replace(target, encode=lambda content, suffix: target.encode(change(content), suffix))


def with_state(**tensors):
    return tampered(lambda content: replace(content, state=content.state | tensors))


def with_words(**words):
    dotted = {name.replace("__", "."): value for name, value in words.items()}
    return tampered(lambda content: replace(content, words=content.words | dotted))


def without(name):
    return tampered(
        lambda content: replace(
            content, state={k: v for k, v in content.state.items() if k != name}
        )
    )


def fails(tmp_path, target, words, arch="resnet18-narrow", **said):
    """The conversion fails with these words, and its folder stays empty."""
    output = tmp_path / ("out" + target.suffixes[0])
    with pytest.raises(ConversionFailed, match=words):
        convert(moved(arch), provenance(arch, **said), output, target)
    assert list(tmp_path.iterdir()) == []


def test_a_tensor_left_out_is_found(tmp_path):
    fails(tmp_path, without("res3.0.shortcut.weight"), r"missing  res3\.0\.shortcut\.weight")


def test_statistics_left_out_are_found_although_frozen_norms_would_make_them_up(tmp_path):
    fails(tmp_path, without("stem.conv1.norm.running_var"), r"missing  stem\.conv1\.norm")


def test_a_tensor_with_its_channels_permuted_is_found(tmp_path):
    weight = moved().layer2[1].conv2.weight.detach()
    wrong = with_state(**{"res3.1.conv2.weight": weight.flip(0)})
    fails(tmp_path, wrong, r"changed  res3\.1\.conv2\.weight")


def test_a_tensor_of_lower_precision_is_found(tmp_path):
    weight = moved().layer2[1].conv2.weight.detach().half()
    wrong = with_state(**{"res3.1.conv2.weight": weight})
    fails(tmp_path, wrong, r"changed  res3\.1\.conv2\.weight")


def test_a_stray_head_is_found(tmp_path):
    fails(tmp_path, with_state(**{"stem.fc.weight": torch.ones(2)}), r"added    stem\.fc\.weight")


def test_the_other_order_of_channels_is_found_and_named(tmp_path):
    fails(tmp_path, with_words(INPUT__FORMAT="BGR"), "stem  at 96x128(.|\n)*RGB and BGR exchanged")


def test_a_standard_deviation_of_another_family_is_found_and_named(tmp_path):
    wrong = with_words(MODEL__PIXEL_STD=[58.14, 57.12, 57.375])  # SwAV's first: 0.228 for 0.229
    fails(tmp_path, wrong, "stem  at 97x129(.|\n)*mean, standard deviation or a tensor of the stem")


def test_the_stride_in_the_other_convolution_is_found_and_named(tmp_path):
    wrong = with_words(MODEL__RESNETS__STRIDE_IN_1X1=True)
    words = "differs by(.|\n)*with stride 2 in the other convolution"
    fails(tmp_path, wrong, words, arch=THIN)


def test_a_network_whose_stride_is_not_the_declared_one_is_found(tmp_path):
    words = "differs by(.|\n)*with stride 2 in the other convolution"
    fails(tmp_path, DETECTRON2, words, arch=THIN, stride="1x1")


def test_another_depth_is_found(tmp_path):
    fails(
        tmp_path, with_words(MODEL__RESNETS__DEPTH=34), r"lacks the tensor 'res2\.2\.conv1\.weight'"
    )


def exchanged(place: Place) -> Place:
    """The two convolutions of the first block of res2: of one shape, so that only numbers show it."""
    if (place.stage, place.block) == (1, 0) and not place.norm:
        return replace(place, layer=3 - place.layer)
    return place


def test_names_exchanged_are_found_in_the_stage_where_they_are(tmp_path):
    wrong = replace(DETECTRON2, names=lambda place: DETECTRON2.names(exchanged(place)))
    fails(tmp_path, wrong, "(?s)  res2 .*Likely cause: a tensor of res2")


def test_a_name_that_detectron2_does_not_have_is_found(tmp_path):
    wrong = replace(
        DETECTRON2, names=lambda p: DETECTRON2.names(p).replace("shortcut", "downsample")
    )
    fails(tmp_path, wrong, "lacks the tensor 'res3.0.shortcut.weight'")


def test_a_library_that_finds_not_all_of_its_tensors_stops_the_conversion(tmp_path):
    target = TARGETS["torchvision"]
    wrong = replace(target, names=lambda place: "module." + target.names(place))
    wrong = replace(wrong, layout=replace(target.layout, **prefixed(target.layout)))
    fails(tmp_path, wrong, "torchvision .* could not place", arch="resnet18")


def test_a_library_that_passes_over_missing_tensors_is_found_out(tmp_path):
    target = TARGETS["timm"]
    wrong = replace(target, names=lambda place: "backbone." + target.names(place))
    wrong = replace(wrong, layout=replace(target.layout, **prefixed(target.layout, "backbone.")))
    fails(
        tmp_path,
        wrong,
        r"timm .* does not hold the tensors(.|\n)*missing  backbone\.",
        arch="resnet18",
    )


def prefixed(layout, prefix="module."):
    names = ("stem", "stem_norm", "convolution", "norm", "shortcut", "shortcut_norm")
    return {name: prefix + getattr(layout, name) for name in names}


def test_a_reader_that_breaks_is_one_message(tmp_path):
    def broken(path, words, batches):
        raise AttributeError("no such network in this version")

    wrong = replace(DETECTRON2, readers=(broken,))
    fails(tmp_path, wrong, "could not read the file back(.|\n)*no such network in this version")


def test_a_small_change_of_the_input_is_ten_times_what_is_allowed(tmp_path):
    """The tolerance lies between float32's rounding and the smallest mistake in the wild."""
    output = tmp_path / "out.pkl"
    convert(moved(), provenance(), output, DETECTRON2)
    close = Normalization(IMAGENET.mean, (0.2291, 0.224, 0.225))
    with pytest.raises(ConversionFailed):
        certify(output, DETECTRON2, {}, moved(), close)


def test_not_a_number_is_never_within_the_tolerance():
    nan = difference(torch.tensor([1.0, math.nan]), torch.ones(2))
    assert not passed({"96x128": {"stem": nan}})
    assert not passed({"96x128": {"stem": difference(torch.ones(2), torch.ones(3))}})
    assert passed({"96x128": {"stem": difference(torch.zeros(2), torch.zeros(2))}})
