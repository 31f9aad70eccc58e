"""The table of published bands, and how a checkpoint is recognized."""

import csv
import hashlib
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from torchvision.models import ResNet50_Weights

from msbreg.checkpoints.layouts import FORMATS
from msbreg.run.errors import UserError
from msbreg.run.options import script_of_card
from transfer.calibration.bands import (
    HASHES,
    Band,
    identify_checkpoint,
    listing,
    read_bands,
)

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = read_bands()
IMAGES = {"knn": 50_000, "linear": 50_000, "svm": 4_952, "detection": 4_952}


def write_bands(path: Path, *bands: Band) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(bands[0])))
        writer.writeheader()
        writer.writerows(asdict(band) for band in bands)
    return path


def made_up(**changes) -> Band:
    return replace(PUBLISHED[0], file="net.pth", family="", hash_kind="", hash="", **changes)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("band", PUBLISHED, ids=lambda b: f"{b.model}-{b.protocol}-{b.score}")
def test_a_published_band_names_a_card_of_its_protocol_and_a_known_layout(band):
    card = ROOT / "configs" / f"{band.card}.yaml"
    assert script_of_card(card) == f"transfer/{band.protocol}.py"
    assert band.family in {row.name for row in FORMATS}
    assert band.images == IMAGES[band.protocol]
    assert 0 < band.tolerance <= 1.5 < 50 < band.value < 100
    assert bool(band.hash_kind) == bool(band.hash)
    if band.hash:
        assert band.hash_kind in HASHES
        assert re.fullmatch("[0-9a-f]{8}", band.hash)


def test_a_checkpoint_has_one_file_and_one_hash():
    found = {band.model: (band.file, band.hash_kind, band.hash, band.family) for band in PUBLISHED}
    assert all(
        found[band.model] == (band.file, band.hash_kind, band.hash, band.family)
        for band in PUBLISHED
    )
    assert len({(b.model, b.protocol, b.score) for b in PUBLISHED}) == len(PUBLISHED)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_torchvisions_rows_are_those_of_torchvision(version):
    weights = ResNet50_Weights[f"IMAGENET1K_{version.upper()}"]
    (band,) = [band for band in PUBLISHED if band.model == f"torchvision-{version}"]
    assert weights.url.endswith(f"/{band.file}")
    assert band.file == f"resnet50-{band.hash}.pth"
    assert band.value == round(weights.meta["_metrics"]["ImageNet-1K"]["acc@1"], 1)


@pytest.mark.parametrize("kind", HASHES)
def test_a_file_is_recognized_by_its_published_hash_whatever_its_name(checkpoint, kind):
    digest = hashlib.new(kind, b"weights").hexdigest()
    band = replace(made_up(protocol="knn"), file="other.pth", hash_kind=kind, hash=digest[:8])
    found = identify_checkpoint(checkpoint, [*PUBLISHED, band], protocol="knn")
    assert found.bands == (band,)
    assert found.how == f"{band.model} by its published {kind}"


def test_a_file_without_a_published_hash_is_recognized_by_its_name_and_says_so(checkpoint):
    band = made_up(protocol="knn")
    found = identify_checkpoint(checkpoint, [band], protocol="knn")
    assert found.bands == (band,)
    assert found.how == f"{band.model} by its file name; the authors publish no hash"


def test_a_name_alone_does_not_recognize_a_file_whose_hash_is_published(checkpoint):
    band = replace(made_up(protocol="knn"), hash_kind="md5", hash="00000000")
    with pytest.raises(UserError, match="neither its hash nor its file name is in the table"):
        identify_checkpoint(checkpoint, [band], protocol="knn")
    with pytest.raises(UserError, match="its md5 starts with .*, the published one with 00000000"):
        identify_checkpoint(checkpoint, [band], protocol="knn", model=band.model)


def test_an_unknown_file_gets_the_list_of_known_ones(checkpoint):
    with pytest.raises(UserError, match="known checkpoints:\n  moco-v1-200 "):
        identify_checkpoint(checkpoint, PUBLISHED, protocol="knn")


def test_a_name_that_two_authors_use_needs_the_model(tmp_path):
    path = tmp_path / "resnet50.pth"
    path.write_bytes(b"weights")
    with pytest.raises(UserError, match="that of barlow-twins-1000 and vicreg-1000"):
        identify_checkpoint(path, PUBLISHED, protocol="knn")
    found = identify_checkpoint(path, PUBLISHED, protocol="knn", model="vicreg-1000")
    assert [band.value for band in found.bands] == [64.5, 62.8]


def test_a_misspelled_model_gets_a_suggestion(checkpoint):
    with pytest.raises(UserError, match="did you mean swav-800?"):
        identify_checkpoint(checkpoint, PUBLISHED, protocol="knn", model="swav800")


def test_a_protocol_without_a_band_is_an_error_that_names_the_others(checkpoint):
    with pytest.raises(UserError, match="has no band of svm, only of knn"):
        identify_checkpoint(checkpoint, [made_up(protocol="knn")], protocol="svm")


def test_a_table_is_read_as_written(tmp_path):
    bands = made_up(), made_up(score="another", value=12.5)
    assert read_bands(write_bands(tmp_path / "bands.csv", *bands)) == bands


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("protocol,", "", "does not have the columns"),
        ("60.6", "high", ":2: images, value and tolerance must be numbers"),
        (",0.5,", ",0,", ":2: images and tolerance must be above 0"),
        ("md5", "crc", ":2 is not a band"),
    ],
)
def test_a_damaged_table_is_an_error_that_names_the_line(tmp_path, before, after, words):
    path = write_bands(tmp_path / "bands.csv", PUBLISHED[0])
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(UserError, match=words):
        read_bands(path)


def test_the_listing_has_one_line_per_checkpoint_and_protocol():
    lines = listing(PUBLISHED).splitlines()
    assert len(lines) == 1 + len({(band.model, band.protocol) for band in PUBLISHED})
    assert "20-NN top-1 65.7 ± 0.5, 200-NN top-1 62.7 ± 0.5" in listing(PUBLISHED)
