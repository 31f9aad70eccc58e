"""Specs are restored from every form in which they are written."""

import json
import subprocess
import sys

import pytest

from msbreg.backbones.architectures import ARCHITECTURES, name_of
from msbreg.backbones.spec import (
    IMAGENET,
    BackboneSpec,
    Normalization,
    of_gray_levels,
    spec_of_record,
)
from msbreg.run.errors import UserError

SPEC = BackboneSpec("resnet50", Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "BGR"), True, 96)


def test_a_spec_is_restored_from_a_record():
    assert spec_of_record(json.loads(json.dumps(SPEC.as_dict()))) == SPEC


def test_the_british_key_of_version_0_1_0_is_read():
    old = SPEC.as_dict()
    old["normalisation"] = old.pop("normalization")
    assert spec_of_record(old) == SPEC


def test_missing_entries_of_a_record_take_their_defaults():
    assert spec_of_record({"arch": "resnet18", "method": "byol"}) == BackboneSpec("resnet18")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arch": "resnet19"}, "'resnet19' is unknown; did you mean resnet18"),
        ({"arch": None}, "arch is None"),
        ({"stride": "5x5"}, "stride is '5x5'; expected 3x3 or 1x1"),
        ({"image_size": -1}, "image_size is -1"),
        ({"normalization": 5}, "the normalization is 5"),
    ],
)
def test_malformed_entries_of_a_record_are_reported(change, message):
    with pytest.raises(UserError, match=message):
        spec_of_record(SPEC.as_dict() | change)


def test_basic_blocks_ignore_stride_in_1x1():
    assert BackboneSpec("resnet18", stride_in_1x1=True) == BackboneSpec("resnet18")


def test_gray_levels_are_restored_up_to_rounding():
    assert IMAGENET.pixel_std == (58.395, 57.12, 57.375)
    mean, std = (103.53, 116.28, 123.675), (57.1234567890123, 1.0, 58.395)
    again = of_gray_levels(mean, std, "BGR")
    assert again.pixel_mean == mean
    assert again.pixel_std == pytest.approx(std, rel=1e-12, abs=0)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_is_found_by_its_shape(name):
    assert name_of(ARCHITECTURES[name]) == name


def test_architectures_are_available_without_pytorch():
    code = (
        "import sys; from msbreg.backbones import architectures, spec; "
        "assert not {'torch', 'numpy', 'torchvision'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_networks_are_built_without_torchvision():
    code = "import sys, msbreg.checkpoints.load; assert 'torchvision' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
