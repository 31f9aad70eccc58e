"""Time the extraction of features and the streamed linear heads: CPU time of one thread, interleaved rounds.

    python benchmarks/extraction.py                       # ResNet-50 at 224 pixels
    python benchmarks/extraction.py --compile             # also compiled by TorchInductor (two minutes more)

The reference is the plain network in eval mode under ``inference_mode``, as solo-learn, lightly and DINO
run it, on the same normalized batch. Features are checked to be within 1e-4 of the largest one. A step of
heads is one of streamed linear classification: the network, the heads' losses and gradients, and the update.
The update takes as long for a small batch as for a large one; published batches have 256 images and more.
"""

import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # before BLAS is loaded: idle threads spin, which counts as CPU time

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn

from msbreg.backbones.inference import FrozenBackbone
from msbreg.backbones.resnet import ResNet, build_backbone, embed, normalize
from msbreg.backbones.spec import BackboneSpec
from transfer.frozen.head_training import HeadBatch, HeadPlan, HeadTraining
from transfer.frozen.heads import Head, Heads

CPU = torch.device("cpu")
CLASSES = 1000


@torch.no_grad()
def calibrated(arch: str) -> ResNet:
    """A random network with the BatchNorm statistics of its own activations."""
    backbone = build_backbone(arch, seed=0)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    backbone.train()(torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0)))
    return backbone.eval()


def extraction_routes(
    backbone: ResNet, pixels: Tensor, compiled: bool
) -> dict[str, Callable[[], Tensor]]:
    spec = BackboneSpec("resnet50")

    def plain() -> Tensor:
        with torch.inference_mode():
            return embed(backbone, normalize(pixels, CPU).contiguous())

    ours = FrozenBackbone(backbone, spec, CPU)
    routes: dict[str, Callable[[], Tensor]] = {"plain eval": plain, "ours": lambda: ours(pixels)}
    if compiled:
        fast = FrozenBackbone(backbone, spec, CPU, compiled=True)
        routes["ours, compiled"] = lambda: fast(pixels)
    half = FrozenBackbone(backbone, spec, CPU, precision="bf16")
    return routes | {"ours, bf16": lambda: half(pixels)}


def head_routes(backbone: ResNet, pixels: Tensor) -> dict[str, Callable[[], object]]:
    network = FrozenBackbone(backbone, BackboneSpec("resnet50"), CPU)
    images = len(pixels)
    labels = torch.arange(images) % CLASSES

    def step_of(rates: list[float]) -> Callable[[], object]:
        generator = torch.Generator().manual_seed(0)
        training = HeadTraining(
            images,
            Heads(network.width, CLASSES, [Head(rate) for rate in rates], generator),
            HeadPlan(epochs=1, batch_size=images),
            features_of=network.features,
            batches_of=lambda shares: iter(()),
            device=CPU,
        )

        def step() -> None:
            training.optimizer.zero_grad()
            batch = HeadBatch(pixels, labels, images)
            (loss,) = training.losses(training.model, batch, 0)
            loss.total.backward()
            training.optimizer.step()

        return step

    eight = [0.1 * 2**power for power in range(-4, 4)]
    return {"one learning rate": step_of([0.1]), "eight learning rates": step_of(eight)}


def compare(routes: dict[str, Callable[[], object]], images: int, rounds: int) -> None:
    """Print the CPU time of each route and its ratio to the first."""
    times: dict[str, list[float]] = {name: [] for name in routes}
    for run in routes.values():
        run()  # warm up, and compile
    for _ in range(rounds):
        for name, run in routes.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    first = statistics.median(next(iter(times.values())))
    for name, found in times.items():
        seconds = statistics.median(found)
        print(
            f"{name:<22} {images / seconds:8.1f} images/s   {first / seconds:5.2f} x as fast   "
            f"{seconds / first:5.2f} x the time"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=16, help="images per batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = calibrated(options.arch)
    shape = (options.images, 3, options.size, options.size)
    draw = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
    routes = extraction_routes(backbone, pixels, options.compile)
    wanted = routes["plain eval"]()
    for name, run in routes.items():
        difference = float((run() - wanted).abs().max() / wanted.abs().max())
        print(f"{name:<22} differs by {difference:.1e} of the largest feature")
    print(f"\nfeatures, {options.arch} at {options.size} pixels")
    compare(dict(routes), options.images, options.rounds)
    print(f"\na step of streamed heads, {CLASSES} classes, {4 * options.images} images")
    pixels = pixels.repeat(4, 1, 1, 1)
    compare(head_routes(backbone, pixels), len(pixels), options.rounds)


if __name__ == "__main__":
    main()
