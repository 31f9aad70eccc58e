"""Vision transformers in the protocols on frozen features, from a file on disk to a record."""

from pathlib import Path

import numpy as np
import pytest
import torch

from msbreg.data.sources import open_folder
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.errors import UserError
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.msbreg.backbones.toy_transformers import (
    PLAIN,
    TOYS,
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.msbreg.checkpoints.layouts.vit_files import FILES
from transfer import knn

pytestmark = pytest.mark.usefixtures("toys")


@pytest.fixture
def data(make_folder) -> Path:
    return make_folder(classes=3, train=6, val=4, side=32)


def write(path: Path, name: str) -> Path:
    _, arch, build = FILES[name]
    torch.save(build(timm_model(arch, seed=0), timm_model(arch, seed=1)), path)
    return path


def run(tmp_path: Path, data: Path, *arguments: str, output: str = "run") -> dict:
    fixed = [f"--data={data}", f"--output={tmp_path / output}", f"--cache={tmp_path / 'cache'}"]
    config, card = parse(knn.Config, [*fixed, "--device=cpu", "--workers=1", "--k=[3]", *arguments])
    knn.run(config, card)
    record = read_record(tmp_path / output)
    assert record is not None
    return record


def test_knn_of_a_vit_uses_timms_class_token(tmp_path, data):
    path = write(tmp_path / "vit.pth", "timm")
    out = tmp_path / "features.npz"
    record = run(tmp_path, data, f"--checkpoint={path}", f"--features-out={out}")
    assert record["status"] == "done"
    assert record["representation"] == "cls"
    network = record["network"]
    assert (network["family"], network["arch"], network["image_size"]) == ("vit", PLAIN, 32)
    assert record["transform"]["interpolation"] == "bicubic"
    transform = EvaluationTransform(32, 32, "bicubic")
    images = open_folder(data, "val")
    pixels = np.stack([transform(images.image(i)) for i in range(len(images))])
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        normalized = (torch.from_numpy(pixels) / 255 - mean) / std
        wanted = timm_model(PLAIN).forward_features(normalized)[:, 0].numpy()
    np.testing.assert_allclose(np.load(out)["val_features"], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("representation", ["mean", "cls+mean", "cls-2"])
def test_another_representation_has_other_features(tmp_path, data, representation):
    path = write(tmp_path / "vit.pth", "DINOv2")
    options = [f"--checkpoint={path}", f"--representation={representation}"]
    record = run(tmp_path, data, *options, f"--features-out={tmp_path / 'x.npz'}")
    assert record["representation"] == representation
    width = 32 if representation == "mean" else 64
    assert np.load(tmp_path / "x.npz")["val_features"].shape == (12, width)


def test_an_unknown_representation_lists_those_of_the_network(tmp_path, data):
    path = write(tmp_path / "vit.pth", "timm")
    with pytest.raises(UserError, match=r"'gap'; this network has: cls, cls\+mean, mean, cls-2"):
        run(tmp_path, data, f"--checkpoint={path}", "--representation=gap")


def test_the_record_says_that_positions_were_interpolated(tmp_path, data):
    path = write(tmp_path / "vit.pth", "DINOv2")
    options = ["--transform.resize=24", "--transform.crop=24"]
    record = run(tmp_path, data, f"--checkpoint={path}", *options)
    assert record["network"]["adaptation"].startswith(
        "position embeddings are interpolated from 5^2 to 3^2 patches"
    )
    assert record["network"]["positions"] == "offset"
    whole = run(tmp_path, data, f"--checkpoint={path}", output="whole")
    assert "adaptation" not in whole["network"]


def test_a_size_that_the_source_does_not_adapt_is_refused(tmp_path, data):
    path = write(tmp_path / "vit.pth", "timm")
    options = ["--transform.resize=24", "--transform.crop=24"]
    with pytest.raises(UserError, match="its source does not adapt them"):
        run(tmp_path, data, f"--checkpoint={path}", *options)


def test_features_of_another_formula_are_not_taken_from_the_cache(tmp_path, data):
    path = write(tmp_path / "vit.pth", "DINO published")
    found = []
    for family in ("vit-dino", "vit-timm"):
        out = tmp_path / f"{family}.npz"
        options = ["--transform.resize=24", "--transform.crop=24", f"--family={family}"]
        run(
            tmp_path, data, f"--checkpoint={path}", *options, f"--features-out={out}", output=family
        )
        found.append(np.load(out)["val_features"])
    assert not np.array_equal(*found)  # cached features would be equal


def test_the_twin_of_a_vit_has_its_architecture_and_input(tmp_path, data):
    path = write(tmp_path / "vit.pth", "MAE published")
    twin = run(tmp_path, data, "--checkpoint=random", f"--twin_of={path}")["network"]
    assert (twin["arch"], twin["image_size"], twin["positions"]) == (PLAIN, 32, "bicubic")
    assert twin["source"] == "random"


@pytest.mark.parametrize("arch", TOYS)
def test_an_untrained_vit_is_built_by_name(tmp_path, data, arch):
    network = run(tmp_path, data, "--checkpoint=random", f"--arch={arch}")["network"]
    assert (network["arch"], network["image_size"]) == (arch, TOYS[arch].image_size)


def test_a_model_of_timm_is_evaluated_by_its_pooled_features(tmp_path, data):
    options = ["--transform.resize=32", "--transform.crop=32"]
    record = run(tmp_path, data, "--checkpoint=random", "--arch=timm/resnet10t", *options)
    assert record["representation"] == "pooled"
    assert record["network"]["arch"] == "timm/resnet10t"
