"""What files and configurations state about their networks, and errors in these statements."""

import json
from pathlib import Path

import pytest

from msbreg.checkpoints.layouts import names
from msbreg.checkpoints.layouts.match import identify
from msbreg.checkpoints.read import FileContent
from msbreg.run.errors import UserError
from tests.msbreg.checkpoints.layouts.families import made_state, named, ours


def file_with(content: object, path: Path = Path("ckpt.pth"), **more) -> FileContent:
    fields = {"stubbed": (), "metadata": {}, "sidecar": {}} | more
    return FileContent(path, content, "0" * 64, "torch zip", **fields)


def published(**changes) -> dict[str, str]:
    description = {
        "arch": "resnet18",
        "normalization": {"mean": [0.5] * 3, "std": [0.2] * 3, "channels": "BGR"},
        "stride": "3x3",
        "image_size": 96,
        "family": "moco",
        "details": {"method": "moco"},
    }
    return {"msbreg": json.dumps(description | changes)}


def test_a_published_file_states_everything_that_an_evaluation_needs():
    match = identify(file_with(made_state("resnet18"), metadata=published()))
    assert match.row.name == "msbreg-safetensors"
    assert (match.spec.normalization.channels, match.spec.normalization.mean[0]) == ("BGR", 0.5)
    assert (match.spec.image_size, match.details["method"]) == (96, "moco")


@pytest.mark.parametrize(
    ("metadata", "expected"),
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
        (published(normalization={"mean": ["a"] * 3, "std": [1, 1, 1]}), "three means"),
        (
            published(normalization={"mean": [0.1] * 3, "std": [1] * 3, "channels": "XYZ"}),
            "expected RGB or BGR",
        ),
        (published(image_size="big"), "image_size"),
        (published(details=[1]), "expected a mapping"),
    ],
)
def test_a_malformed_description_is_an_error(metadata, expected):
    with pytest.raises(UserError, match=expected):
        identify(file_with(made_state("resnet18"), metadata=metadata))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"schema": 2}, "has checkpoint schema 2; this version reads 1"),
        ({"config": 5}, "lacks method, views"),
        ({"config": {}}, "lacks method, views"),
        ({"kind": "zzz"}, "expects the entry kind = 'msbreg-pretrain'"),
        ({"image_size": -1}, "expected a number of pixels"),
    ],
)
def test_our_own_checkpoint_must_be_complete(change, expected):
    state = made_state("resnet18")
    with pytest.raises(UserError, match=expected):
        identify(file_with(ours(state, state) | change))


def huggingface(**sidecar) -> FileContent:
    return file_with(named(made_state("resnet50"), names.huggingface), sidecar=sidecar)


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage = True"),
        ({"downsample_in_bottleneck": "false"}, "expected true or false"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"preprocessor": {"do_rescale": False}}, "do_rescale = False; expected true"),
        ({"preprocessor": {"image_mean": 0.5, "image_std": 0.5}}, "expected mean and std"),
        ({"preprocessor": {"image_mean": [123, 116, 103], "image_std": [1, 1, 1]}}, "means in"),
        ({"pretrained_cfg": [1]}, "expected an object"),
        ({"architecture": "resnetblur50"}, "resnetblur50"),
    ],
)
def test_a_configuration_of_an_unsupported_network_or_input_is_rejected(sidecar, expected):
    with pytest.raises(UserError, match=expected):
        identify(huggingface(**sidecar))


def test_a_processor_without_normalization_is_respected():
    processor = {"do_normalize": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    assert identify(huggingface(preprocessor=processor)).spec.normalization.std == (1.0, 1.0, 1.0)


def test_a_certificate_next_to_the_file_supplies_what_the_format_cannot_store(tmp_path):
    path = tmp_path / "swav_torchvision.pth"
    source = json.loads(published()["msbreg"])
    certificate = tmp_path / "swav_torchvision.pth.certificate.json"
    certificate.write_text(json.dumps({"sha256": "0" * 64, "source": source}))
    match = identify(file_with(made_state("resnet18"), path))
    assert match.spec.normalization.channels == "BGR"
    assert any("swav_torchvision.pth.certificate.json" in note for note in match.notes)


def test_a_certificate_of_another_file_is_ignored(tmp_path):
    path = tmp_path / "a.pth"
    (tmp_path / "a.pth.certificate.json").write_text(json.dumps({"sha256": "1" * 64}))
    match = identify(file_with(made_state("resnet18"), path))
    assert match.spec.normalization.channels == "RGB"
    assert any("belongs to another file" in note for note in match.notes)


def test_an_unstated_input_normalization_is_noted():
    notes = identify(file_with(made_state("resnet18"))).notes
    assert any("ImageNet's is assumed" in note for note in notes)
