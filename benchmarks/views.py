"""Time the augmentation of 4 views of 224 pixels from a JPEG of 500 x 375: CPU time of one thread.

    python benchmarks/views.py [rounds]

Every pipeline decodes the photograph once and samples views as in Table 9, with a bicubic crop, as uint8.
lightly's transform offers only a bilinear crop and float32. Rounds are interleaved, so that changes in
machine load affect all pipelines. Reported times are medians over rounds.

"msbreg, crops only" is the part of a worker if the device finishes the views (pretrain/device_views.py).
solo-learn's releases pin torch 1.x and cannot be installed beside a current one; its transforms are those of
torchvision v1 on Pillow with Pillow's blur, so that line stands for it.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import io
import statistics
import time
from collections.abc import Callable

import cv2
import numpy as np
import torch
from lightly.transforms.byol_transform import BYOLView1Transform
from PIL import Image, ImageFilter
from sklearn.datasets import load_sample_images
from torchvision import transforms as v1
from torchvision.transforms import v2

from msbreg.data.transforms import image_generator
from pretrain.device_views import crop_views
from pretrain.views import make_views, policy

VIEWS, SIZE, IMAGES_PER_ROUND = 4, 224, 8


def pillow_blur(image: Image.Image) -> Image.Image:
    """Pillow's blur, as in published pipelines; the v1 blur of torchvision is a slow convolution."""
    return image.filter(ImageFilter.GaussianBlur(torch.empty(1).uniform_(0.1, 2.0).item()))


def photograph() -> bytes:
    """A photograph as a JPEG of 500 x 375 pixels and about 90 KB, similar to ImageNet's."""
    china = load_sample_images().images[0][:, :569]
    resized = Image.fromarray(china).resize((500, 375), Image.Resampling.BICUBIC)
    encoded = io.BytesIO()
    resized.save(encoded, "JPEG", quality=95)
    return encoded.getvalue()


def pipelines(jpeg: bytes) -> dict[str, Callable[[int], object]]:
    """Name -> a function that computes the views of image i."""
    data = np.frombuffer(jpeg, np.uint8)
    table9 = policy("table9", SIZE)

    def decode(_: int) -> np.ndarray:
        return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)

    def ours(index: int) -> np.ndarray:
        return make_views(decode(index), table9, VIEWS, image_generator(0, 0, index))

    def crops_only(index: int) -> tuple[np.ndarray, np.ndarray]:
        return crop_views(decode(index), table9, VIEWS, image_generator(0, 0, index))

    def chain(library, first: list, blur: Callable, last: list) -> Callable:
        jitter = library.ColorJitter(0.4, 0.4, 0.2, 0.1)
        return library.Compose(
            [
                *first,
                library.RandomHorizontalFlip(),
                library.RandomApply([jitter], p=0.8),
                library.RandomGrayscale(0.2),
                blur,
                library.RandomSolarize(128, 0.2),
                *last,
            ]
        )

    bicubic = v1.InterpolationMode.BICUBIC
    crop = v1.RandomResizedCrop(SIZE, interpolation=bicubic)
    on_pillow = chain(v1, [crop], pillow_blur, [v1.PILToTensor()])
    crop = v2.RandomResizedCrop(SIZE, interpolation=bicubic, antialias=True)
    on_tensors = chain(v2, [crop], v2.GaussianBlur(23, (0.1, 2.0)), [])

    table9_of_lightly = BYOLView1Transform(SIZE, solarization_prob=0.2, normalize=None)

    def views_from_pillow(transform: Callable) -> Callable[[int], torch.Tensor]:
        def make(_: int) -> torch.Tensor:
            image = Image.open(io.BytesIO(jpeg)).convert("RGB")
            return torch.stack([transform(image) for _ in range(VIEWS)])

        return make

    def torchvision_v2(index: int) -> torch.Tensor:
        image = torch.from_numpy(decode(index)).permute(2, 0, 1)
        return torch.stack([on_tensors(image) for _ in range(VIEWS)])

    return {
        "decode alone": decode,
        "msbreg": ours,
        "msbreg, crops only": crops_only,
        "torchvision v1 on Pillow": views_from_pillow(on_pillow),
        "lightly on Pillow": views_from_pillow(table9_of_lightly),
        "torchvision v2 on uint8": torchvision_v2,
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    jpeg = photograph()
    contenders = pipelines(jpeg)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):  # the first warms up
        for name, views in contenders.items():
            start = time.process_time()
            for i in range(IMAGES_PER_ROUND):
                views(number * IMAGES_PER_ROUND + i)
            if number:
                seconds[name].append((time.process_time() - start) / IMAGES_PER_ROUND)

    print(f"{VIEWS} views of {SIZE} px from a JPEG of {len(jpeg) / 1024:.0f} KB, {rounds} rounds")
    print(f"{'pipeline':26}{'ms/image':>10}{'views/s':>10}{'x decode':>10}{'x msbreg':>10}")
    for name, spent in seconds.items():
        median = statistics.median(spent)
        rate = "-" if name == "decode alone" else f"{VIEWS / median:.0f}"
        ratios = (
            statistics.median(a / b for a, b in zip(spent, seconds[base], strict=True))
            for base in ("decode alone", "msbreg")
        )
        print(f"{name:26}{1e3 * median:10.2f}{rate:>10}", *(f"{r:9.2f}" for r in ratios))


if __name__ == "__main__":
    main()
