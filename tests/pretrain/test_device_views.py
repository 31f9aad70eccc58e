"""Views finished on the device, compared with OpenCV's and with torchvision's functions."""

import itertools
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from msbreg.backbones.resnet import normalize
from pretrain import device_views, views
from pretrain.device_views import COLUMNS, augment, crop_views, finish_views, pack
from pretrain.views import Augmentation, ViewParameters, make_views, policy, sample
from tests.fake_cuda import CUDA, devices, fake_cuda
from tests.reference import views as slow

CPU = torch.device("cpu")
PHOTOGRAPHS = load_sample_images().images  # two of 427 x 640
NOISE = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
SQUARES = [PHOTOGRAPHS[0][100:228, 100:228], PHOTOGRAPHS[1][100:228, 100:228], NOISE]
POLICIES = sorted(views.POLICIES)
STRONG = {"jitter": 1.0, "brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.4}


def choices(
    *jitter: tuple[str, float],
    flip: bool = False,
    gray: bool = False,
    blur_sigma: float = 0.0,
    solarize: bool = False,
) -> ViewParameters:
    return ViewParameters(0, 0, 1, 1, flip, jitter, gray, blur_sigma, solarize)


def finished(
    image: np.ndarray,  # (S, S, 3) uint8
    drawn: Iterable[ViewParameters],  # B
    **options: int,
) -> np.ndarray:  # (B, S, S, 3) int64
    """The square image, finished on the device with each of the choices in one batch."""
    augmentation = Augmentation(size=len(image), **options)
    rows = torch.from_numpy(np.stack([pack(p, augmentation) for p in drawn]))
    crops = torch.tensor(image).permute(2, 0, 1).expand(len(rows), -1, -1, -1)
    return augment(crops, rows).permute(0, 2, 3, 1).numpy().astype(int)


def largest_difference(ours: np.ndarray, reference: Iterable[np.ndarray]) -> float:
    return float(np.abs(ours - np.stack(list(reference))).max())


# ---- Choices


@pytest.mark.parametrize("name", POLICIES)
def test_both_paths_draw_the_same_choices(name):
    augmentations = policy(name, 48)
    ours, theirs, expected = (np.random.default_rng(5) for _ in range(3))
    crops, rows = crop_views(PHOTOGRAPHS[0], augmentations, 4, ours)
    make_views(PHOTOGRAPHS[0], augmentations, 4, theirs)
    assert ours.bit_generator.state == theirs.bit_generator.state
    for j in range(4):
        augmentation = augmentations[j % len(augmentations)]
        parameters = sample(augmentation, *PHOTOGRAPHS[0].shape[:2], expected)
        view = views.crop(PHOTOGRAPHS[0], parameters, augmentation)
        np.testing.assert_array_equal(crops[j], view.transpose(2, 0, 1))
        np.testing.assert_array_equal(rows[j], pack(parameters, augmentation))
    assert (rows.shape, rows.dtype, crops.dtype) == ((4, COLUMNS), np.float32, np.uint8)


def test_unpacked_columns_are_the_choices_that_were_packed():
    jitter = (("saturation", 0.5), ("hue", -0.25), ("contrast", 1.5), ("brightness", 0.75))
    every = choices(*jitter, flip=True, gray=True, blur_sigma=1.5, solarize=True)
    augmentation = Augmentation(solarize_threshold=100)
    rows = np.stack([pack(every, augmentation), pack(choices(), augmentation)])
    columns = device_views.unpack(torch.from_numpy(rows))
    unchanged = [1.0, 0.0, 0.0]
    expected = {
        "flip": [1, 0],
        "hue": [-0.25, 0],
        "gray": [1, 0],
        "sigma": [1.5, 1],
        "radius": [5, 0],
        "threshold": [100, 256],
    }
    for name, values in expected.items():
        assert getattr(columns, name).shape == (2, 1, 1, 1)
        assert getattr(columns, name).flatten().tolist() == values
    assert columns.before[:, :, 0].squeeze().tolist() == [[0.5, 0, 0.5], unchanged, unchanged]
    assert columns.after[:, :, 0].squeeze().tolist() == [[1.5, -0.5, 0], [0.75, 0, 0], unchanged]
    for blends in (columns.before, columns.after):
        assert blends[:, :, 1].squeeze().tolist() == [unchanged] * 3


def test_the_blur_has_the_radius_of_the_cpu():
    for sigma in (0.1, 0.34, 1.0, 2.0, 9.0):
        for size in (1, 2, 32, 224):
            radius = pack(choices(blur_sigma=sigma), Augmentation(size=size))[22]
            assert radius == views.blur_radius(size, sigma, 0.1)


# ---- Operations


@pytest.mark.parametrize(
    ("part", "amounts", "difference", "bound"),
    [
        # In levels. The bound for torchvision is a rounding, half a level; in contrast and saturation, its
        # luma of 0.2989 for red adds to it.
        ("brightness", [0.0, 0.6, 1.0, 1.37, 2.5], 0, 0.501),
        ("contrast", [0.0, 0.6, 1.0, 1.37, 2.5], 0, 0.55),
        ("saturation", [0.0, 0.8, 1.0, 1.2, 1.8], 1, 0.55),
        ("hue", [-0.5, -0.1, -0.033, -1e-9, 0.0, 0.07, 0.1, 0.5], 1, 0.501),
    ],
)
def test_jitter_matches_opencv_and_torchvision(part, amounts, difference, bound):
    for image in SQUARES:
        ours = finished(image, [choices((part, amount)) for amount in amounts])
        opencv = [getattr(views, part)(image, amount) for amount in amounts]
        assert largest_difference(ours, opencv) <= difference
        assert np.abs(ours - np.stack(opencv)).mean() <= 0.05
        reference = (slow.jitter(image, part, amount) for amount in amounts)
        assert largest_difference(ours, reference) <= bound


def test_gray_matches_opencv_and_torchvision():
    for image in SQUARES:
        ours = finished(image, [choices(gray=True)])
        assert (ours == ours[..., :1]).all()
        assert largest_difference(ours, [views.gray(image)]) <= 1
        assert largest_difference(ours, [slow.gray(image)]) <= 0.55  # 0.299 against 0.2989


def test_blur_matches_opencv_and_torchvision():
    sigmas = [0.1, 0.5, 1.0, 1.4, 2.0, 5.0]
    for image in SQUARES:
        ours = finished(image, [choices(blur_sigma=sigma) for sigma in sigmas])
        assert largest_difference(ours, [views.blur(image, sigma, 0.1) for sigma in sigmas]) <= 1
        reference = [slow.blur(image, sigma, 0.1) for sigma in sigmas]
        assert largest_difference(ours, reference) <= 1.0  # a rounding, and the tail beyond 3 sigma


@pytest.mark.parametrize("threshold", [0, 1, 128, 255, 256])
def test_solarize_equals_that_of_the_cpu(threshold):
    ours = finished(NOISE, [choices(solarize=True), choices()], solarize_threshold=threshold)
    np.testing.assert_array_equal(ours[0], views.solarize(NOISE, threshold))
    np.testing.assert_array_equal(ours[1], NOISE)


def test_a_flip_reverses_the_columns():
    ours = finished(NOISE, [choices(flip=True), choices()])
    np.testing.assert_array_equal(ours[0], NOISE[:, ::-1])
    np.testing.assert_array_equal(ours[1], NOISE)


# ---- Complete views


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("overrides", [{}, STRONG], ids=["policy", "strong"])
def test_a_finished_view_matches_that_of_the_cpu(name, overrides):
    augmentations = policy(name, 96, **overrides)
    differences = []
    for image in PHOTOGRAPHS:
        ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
        crops, rows = map(torch.from_numpy, crop_views(image, augmentations, 24, ours))
        expected = torch.from_numpy(make_views(image, augmentations, 24, theirs))
        differences.append(augment(crops, rows).int() - expected.int())
    difference = torch.cat(differences).abs().float()
    # An operation rounds a value to another level, which a later one multiplies by up to 1.8.
    assert difference.mean() <= 0.05
    assert difference.mean((1, 2, 3)).max() <= 0.25  # of the worst view
    assert (difference > 2).float().mean() <= 5e-4
    assert difference.max() <= 8


def test_the_order_of_the_jitter_of_each_view_is_respected():
    parts = (("brightness", 1.6), ("contrast", 0.5), ("saturation", 1.7), ("hue", 0.3))
    orders = [choices(*order) for order in itertools.permutations(parts)]
    image = SQUARES[0][:64, :64]
    ours = finished(image, orders)  # one batch
    augmentation = Augmentation(size=len(image))
    expected = np.stack(
        [views.apply(image, replace(o, height=64, width=64), augmentation) for o in orders]
    )
    distances = np.array([np.abs(view - expected).mean((1, 2, 3)) for view in ours])
    assert distances.diagonal().max() <= 0.2
    np.testing.assert_array_equal(distances.argmin(1), np.arange(len(orders)))


def test_a_view_does_not_depend_on_the_other_views_of_its_batch():
    crops, rows = crop_views(PHOTOGRAPHS[0], policy("table9", 32), 8, np.random.default_rng(0))
    together = augment(torch.from_numpy(crops), torch.from_numpy(rows)).int()
    for j in range(8):
        alone = augment(torch.from_numpy(crops[j : j + 1]), torch.from_numpy(rows[j : j + 1]))
        # Sums over other shapes may differ in the last bit, and so round to the other level.
        assert (alone[0].int() - together[j]).abs().max() <= 1


def test_a_view_without_choices_is_unchanged():
    np.testing.assert_array_equal(finished(NOISE, [choices()])[0], NOISE)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_tiny_views_of_one_color_work(size):
    image = np.full((5, 3, 3), 77, np.uint8)
    still = policy("table9", size, jitter=0.0, solarize=0.0, blur_kernel=1.0)
    crops, rows = crop_views(image, still, 8, np.random.default_rng(0))
    views = augment(torch.from_numpy(crops), torch.from_numpy(rows))
    assert views.shape == (8, 3, size, size)
    assert (views == 77).all()


def test_autocast_does_not_change_the_views():
    crops, rows = crop_views(PHOTOGRAPHS[0], policy("table9", 32), 4, np.random.default_rng(0))
    arguments = torch.from_numpy(crops), torch.from_numpy(rows)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = augment(*arguments)
    assert torch.equal(under_autocast, augment(*arguments))


def test_views_of_several_sizes_are_finished_each_with_its_parameters():
    batches = [
        crop_views(PHOTOGRAPHS[0], policy("table9", size), 3, np.random.default_rng(0))
        for size in (32, 16)
    ]
    crops = [torch.from_numpy(pixels) for pixels, _ in batches]
    rows = [torch.from_numpy(numbers) for _, numbers in batches]
    large, small = finish_views(crops, rows, CPU)
    assert torch.equal(large, augment(crops[0], rows[0]))
    assert torch.equal(small, augment(crops[1], rows[1]))


# ---- On a GPU


def batches(views: int = 2) -> tuple[Tensor, Tensor]:
    """Crops (K, 6, 3, 32, 32) and parameters (K, 6, COLUMNS)."""
    pairs = [
        crop_views(PHOTOGRAPHS[i % 2], policy("table9", 32), views, np.random.default_rng(i))
        for i in range(6)
    ]
    crops, rows = zip(*pairs, strict=True)
    return torch.from_numpy(np.stack(crops, axis=1)), torch.from_numpy(np.stack(rows, axis=1))


def test_views_are_finished_on_the_gpu_without_reading_a_value():
    with fake_cuda():
        crops = torch.empty(2, 6, 3, 32, 32, dtype=torch.uint8)
        finished = finish_views(crops, torch.empty(2, 6, COLUMNS), CUDA)
        # Fake tensors have no values: reading one, as item() or a mask would, raises an error.
        with pytest.raises(DataDependentOutputException):
            finished[0].max().item()
        inputs = [normalize(view, CUDA) for view in finished]
    assert devices(*finished, *inputs) == {"cuda"}
    assert {view.dtype for view in finished} == {torch.uint8}
    assert {view.shape for view in inputs} == {(6, 3, 32, 32)}
    assert all(view.is_contiguous(memory_format=torch.channels_last) for view in inputs)


def test_parameters_left_on_the_cpu_raise_an_error():
    with fake_cuda():
        crops = torch.empty(6, 3, 32, 32, dtype=torch.uint8, device=CUDA)
        with pytest.raises(RuntimeError, match="device"):
            augment(crops, torch.empty(6, COLUMNS))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU on this machine")
def test_a_gpu_computes_the_views_of_the_cpu_without_synchronizing():
    crops, rows = batches()
    expected = finish_views(crops, rows, CPU)
    finish_views(crops, rows, CUDA)  # loads the kernels, which synchronizes
    crops, rows = crops.pin_memory(), rows.pin_memory()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ours = finish_views(crops, rows, CUDA)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for view, reference in zip(ours, expected, strict=True):
        difference = (view.cpu().int() - reference.int()).abs().float()
        # Sums in another order, or in TF32, round to another level; a later operation multiplies it.
        assert difference.mean() <= 0.1
        assert difference.max() <= 5


# ---- Invalid input


def test_views_that_are_not_bytes_fail_an_assertion():
    with pytest.raises(AssertionError):
        augment(torch.zeros(2, 3, 8, 8), torch.zeros(2, COLUMNS))


def test_parameters_of_another_batch_fail_an_assertion():
    with pytest.raises(AssertionError):
        augment(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, COLUMNS))
