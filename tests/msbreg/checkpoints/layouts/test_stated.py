"""What files and configurations say of their networks, and what is wrong with what they say."""

import json
from pathlib import Path

import pytest

from msbreg.checkpoints.layouts import names
from msbreg.checkpoints.layouts.match import identify
from msbreg.checkpoints.read import FileContent
from msbreg.run.errors import UserError
from tests.msbreg.checkpoints.layouts.families import made_state, named, ours


def held(content: object, path: Path = Path("ckpt.pth"), **more) -> FileContent:
    given = {"stubbed": (), "metadata": {}, "sidecar": {}} | more
    return FileContent(path, content, "0" * 64, "torch zip", **given)


def published(**changes) -> dict[str, str]:
    said = {
        "arch": "resnet18",
        "normalization": {"mean": [0.5] * 3, "std": [0.2] * 3, "channels": "BGR"},
        "stride": "3x3",
        "image_size": 96,
        "family": "moco",
        "details": {"method": "moco"},
    }
    return {"msbreg": json.dumps(said | changes)}


def test_a_published_file_says_all_that_an_evaluation_needs():
    match = identify(held(made_state("resnet18"), metadata=published()))
    assert match.row.name == "msbreg-safetensors"
    assert (match.spec.normalization.channels, match.spec.normalization.mean[0]) == ("BGR", 0.5)
    assert (match.spec.image_size, match.details["method"]) == (96, "moco")


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"msbreg": "{"}, "not JSON"),
        ({"msbreg": "[1]"}, "expected a mapping"),
        ({"msbreg": "null"}, "expected a mapping"),
        (published(arch=["x"]), "expected the name of an architecture"),
        (published(arch="resnet19"), "'resnet19' is unknown"),
        (published(stride="5x5"), "expected 3x3 or 1x1"),
        (published(normalization=5), "expected mean and std"),
        (published(normalization={"mean": 0.5, "std": [1, 1, 1]}), "expected mean and std"),
        (published(normalization={"mean": [0, 0, 0], "std": [0, 0, 0]}), r"stds in \(0, 2\]"),
        (published(normalization={"mean": ["a"] * 3, "std": [1, 1, 1]}), "three numbers"),
        (
            published(normalization={"mean": [0.1] * 3, "std": [1] * 3, "channels": "XYZ"}),
            "expected RGB or BGR",
        ),
        (published(image_size="big"), "expected pixels"),
        (published(details=[1]), "expected a mapping"),
    ],
)
def test_a_malformed_description_is_one_message(metadata, said):
    with pytest.raises(UserError, match=said):
        identify(held(made_state("resnet18"), metadata=metadata))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "has checkpoint schema 2; this version reads 1"),
        ({"config": 5}, "lacks method, views"),
        ({"config": {}}, "lacks method, views"),
        ({"kind": "zzz"}, "wants the entry kind = 'msbreg-pretrain'"),
        ({"image_size": -1}, "expected pixels"),
    ],
)
def test_our_own_checkpoint_has_to_be_whole(change, said):
    state = made_state("resnet18")
    with pytest.raises(UserError, match=said):
        identify(held(ours(state, state) | change))


def huggingface(**sidecar) -> FileContent:
    return held(named(made_state("resnet50"), names.huggingface), sidecar=sidecar)


@pytest.mark.parametrize(
    ("sidecar", "said"),
    [
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage = True"),
        ({"downsample_in_bottleneck": "false"}, "expected true or false"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"preprocessor": {"do_rescale": False}}, "do_rescale is off"),
        ({"preprocessor": {"image_mean": 0.5, "image_std": 0.5}}, "expected mean and std"),
        ({"preprocessor": {"image_mean": [123, 116, 103], "image_std": [1, 1, 1]}}, "means in"),
        ({"pretrained_cfg": [1]}, "expected an object"),
        ({"architecture": "resnetblur50"}, "resnetblur50"),
    ],
)
def test_a_configuration_of_another_network_or_input_is_refused(sidecar, said):
    with pytest.raises(UserError, match=said):
        identify(huggingface(**sidecar))


def test_a_processor_that_does_not_normalize_is_followed():
    said = {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert identify(huggingface(preprocessor=said)).spec.normalization.std == (1.0, 1.0, 1.0)


def test_a_certificate_beside_the_file_gives_what_the_layout_cannot_say(tmp_path):
    path = tmp_path / "swav_torchvision.pth"
    source = json.loads(published()["msbreg"])
    beside = tmp_path / "swav_torchvision.pth.certificate.json"
    beside.write_text(json.dumps({"sha256": "0" * 64, "source": source}))
    match = identify(held(made_state("resnet18"), path))
    assert match.spec.normalization.channels == "BGR"
    assert any("swav_torchvision.pth.certificate.json" in note for note in match.notes)


def test_a_certificate_of_another_file_is_not_followed(tmp_path):
    path = tmp_path / "a.pth"
    (tmp_path / "a.pth.certificate.json").write_text(json.dumps({"sha256": "1" * 64}))
    match = identify(held(made_state("resnet18"), path))
    assert match.spec.normalization.channels == "RGB"
    assert any("belongs to another file" in note for note in match.notes)


def test_a_layout_that_does_not_state_its_input_is_noted():
    notes = identify(held(made_state("resnet18"))).notes
    assert any("ImageNet's normalization is assumed" in note for note in notes)
