"""extract_features: from folders, lists and sources to one row per image."""

import numpy as np
import pytest
import torch

import msbreg
from msbreg.backbones.resnet import embed, normalize
from msbreg.backbones.spec import BackboneSpec, Normalization
from msbreg.data.decoding import ImageIOError, UnreadableImage
from msbreg.data.folder import list_images
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.errors import UserError

SPEC = BackboneSpec(
    "resnet18-tiny", Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "BGR"), image_size=16
)


@pytest.fixture
def backbone():
    return msbreg.random_backbone(SPEC, seed=3)[0]


def test_a_row_contains_the_pooled_features_of_its_image(backbone, make_folder):
    folder = make_folder(train=3) / "train"
    x = msbreg.extract_features(backbone, SPEC, folder, device="cpu", batch_size=4)
    assert (x.shape, x.dtype) == ((6, 256), np.float32)
    images = list_images(folder)
    for i in range(6):
        pixels = torch.from_numpy(EvaluationTransform(16, 16)(images.image(i)))
        with torch.inference_mode():
            row = embed(backbone, normalize(pixels[None], torch.device("cpu"), SPEC.normalization))
        # The order of summation in convolutions depends on the batch size.
        np.testing.assert_allclose(x[i], row[0], rtol=1e-4, atol=1e-5)


def test_a_folder_a_list_and_a_source_give_the_same_rows(backbone, make_folder):
    folder = make_folder(train=3) / "train"
    source = list_images(folder)
    _, provenance = msbreg.random_backbone(SPEC, seed=3)
    whole = msbreg.extract_features(backbone, provenance, str(folder), device="cpu")
    assert np.array_equal(whole, msbreg.extract_features(backbone, SPEC, source, device="cpu"))
    paths = [source.name(i) for i in range(len(source))]
    assert np.array_equal(whole, msbreg.extract_features(backbone, SPEC, paths, device="cpu"))


def test_progress_counts_images_and_the_given_transform_is_used(backbone, make_folder):
    calls = []
    folder = make_folder(train=3) / "train"
    options = {"device": "cpu", "batch_size": 4}
    x = msbreg.extract_features(
        backbone, SPEC, folder, progress=lambda *call: calls.append(call), **options
    )
    assert calls == [(4, 6), (6, 6)]
    larger = EvaluationTransform(20, 20)
    other = msbreg.extract_features(backbone, SPEC, folder, transform=larger, **options)
    assert not np.allclose(x, other)


def test_unreadable_files_are_reported_by_name(backbone, make_folder):
    folder = make_folder(train=2) / "train"
    with pytest.raises(ImageIOError, match=r"gone\.png"):
        msbreg.extract_features(backbone, SPEC, [folder / "gone.png"], device="cpu")
    (folder / "class1" / "001.png").write_bytes(b"no image")
    with pytest.raises(UnreadableImage, match=r"class1/001\.png"):
        msbreg.extract_features(backbone, SPEC, folder, device="cpu")


def test_features_of_a_transformer_are_its_class_tokens(make_folder):
    backbone, spec = msbreg.random_backbone("vit_tiny_patch16", seed=0, image_size=32)
    folder = make_folder(train=2, side=32) / "train"
    x = msbreg.extract_features(backbone, spec, folder, device="cpu")
    images = list_images(folder)
    transform = EvaluationTransform(32, 32, "bicubic")
    pixels = torch.from_numpy(np.stack([transform(images.image(i)) for i in range(4)]))
    with torch.inference_mode():
        normalized = normalize(pixels, torch.device("cpu"), spec.normalization)
        wanted = backbone.forward_features(normalized)[:, 0]
    np.testing.assert_allclose(x, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="24 x 24 pixels; this network expects a multiple"):
        msbreg.extract_features(
            backbone, spec, folder, device="cpu", transform=EvaluationTransform(24, 24)
        )
