"""A calibration run on the digits, with made-up bands."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from msbreg.backbones.resnet import build_backbone
from msbreg.data.digits.generate import prepare_digits
from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.transfer.calibration.test_bands import made_up, write_bands
from tests.transfer.trained_digits import ARCH, write_checkpoint
from transfer import calibrate
from transfer.calibration.bands import read_bands


@pytest.fixture
def digits(tmp_path) -> Path:
    """A part of the digits: 20 training and 10 test images of each class."""
    whole, part = prepare_digits() / "folder", tmp_path / "digits"
    for split, count in (("train", 20), ("val", 10)):
        for folder in (whole / split).iterdir():
            (part / split / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                (part / split / folder.name / file.name).symlink_to(file)
    return part


@pytest.fixture
def prepared(tmp_path, digits, monkeypatch) -> calibrate.Config:
    """A network with a made-up band, whose file is recognized by its name."""
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))
    write_checkpoint(tmp_path / "net.pth", build_backbone(ARCH, seed=7))
    band = made_up(protocol="knn", card="digits_knn", score="20-NN top-1", images=100, model="net")
    return calibrate.Config(
        protocol="knn",
        checkpoint=tmp_path / "net.pth",
        data=str(digits),
        output=tmp_path / "calibrate",
        bands=write_bands(tmp_path / "bands.csv", replace(band, value=99.0)),
        device="cpu",
    )


def shifted(config: calibrate.Config, **changes) -> calibrate.Config:
    """The same with another band, compared with the completed run."""
    (band,) = read_bands(config.bands)
    write_bands(config.bands, replace(band, **changes))
    return replace(config, finished="skip")


def test_a_run_is_a_normal_run_that_is_compared_with_its_band(prepared, digits, capsys):
    (first,) = calibrate.run(prepared)
    folder = prepared.output / "net-knn"
    record = read_record(folder)
    assert (record["kind"], record["status"], record["card"]) == ("knn", "done", "digits_knn")
    assert record["overrides"]["data"] == str(digits)
    assert first.value == record["results"]["top1_20nn"] != 99

    calibrate.run_as_script(shifted(prepared, value=first.value + 0.3), Card())
    assert "Inside the band: -0.30 points" in capsys.readouterr().out
    written = json.loads((folder / "calibration.json").read_text())
    assert written["recognized"] == "net by its file name; the authors publish no hash"
    assert written["bands"][0]["word"] == "inside"

    with pytest.raises(SystemExit) as end:
        calibrate.run_as_script(shifted(prepared, value=first.value + 2), Card())
    assert end.value.code == 1
    assert "Outside the band: -2.00 points, 1.50 points below it" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        calibrate.run_as_script(shifted(prepared, value=first.value, images=50_000), Card())
    assert "Not comparable: 100 images were scored" in capsys.readouterr().out


def test_a_file_of_another_layout_than_the_bands_is_an_error(prepared):
    with pytest.raises(UserError, match="moco"):
        calibrate.run(shifted(prepared, family="moco"))
    assert not prepared.output.exists()


def test_a_run_of_two_cards_is_refused(prepared):
    (band,) = read_bands(prepared.bands)
    write_bands(prepared.bands, band, replace(band, card="knn_dino"))
    with pytest.raises(UserError, match="several cards for one run: digits_knn, knn_dino"):
        calibrate.run(prepared)


def test_the_settings_of_a_run_are_typed_for_every_protocol(tmp_path):
    for protocol, card in (
        ("knn", "knn_dino"),
        ("linear", "imagenet_linear_swav"),
        ("svm", "voc07_svm"),
        ("detection", "voc_c4"),
    ):
        config = calibrate.Config(
            protocol=protocol,
            checkpoint=write_checkpoint(tmp_path / "net.pth", build_backbone(ARCH, seed=7)),
            data=str(tmp_path),
        )
        complete, of_card = calibrate.protocol_config(
            config, card, output=tmp_path / "out", family=None
        )
        assert type(complete) is calibrate.SCRIPTS[protocol].Config
        assert of_card.name == card
        assert of_card.overrides["checkpoint"] == str(tmp_path / "net.pth")


def test_the_table_is_printed_without_other_options(capsys):
    config, card = parse(calibrate.Config, ["--list"])
    config.check_inputs()
    calibrate.run_as_script(config, card)
    assert "dino-vit-b16" in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["protocol", "checkpoint", "data"])
def test_a_missing_option_is_named(tmp_path, missing):
    words = {"protocol": "knn", "checkpoint": __file__, "data": "digits"}
    words.pop(missing)
    config, _ = parse(calibrate.Config, [f"--{name}={value}" for name, value in words.items()])
    with pytest.raises(UserError, match=f"--{missing} is missing"):
        config.check_inputs()


def test_a_random_network_has_no_published_score():
    with pytest.raises(UserError, match="expected a published checkpoint"):
        calibrate.Config(protocol="knn", checkpoint=Path("random"), data="digits").check_inputs()
