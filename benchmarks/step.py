"""Compare a pre-training step computed one view at a time with one that keeps all views in memory.

CPU time of one thread in interleaved rounds; memory is the peak of a separate process per variant. If lightly
is installed, its BYOL loss over all pairs of views is timed as well.

Command: python benchmarks/step.py --views 4 --images 32 --size 96
"""

import argparse
import copy
import importlib.util
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from msbreg.backbones.resnet import normalize
from pretrain.losses import msbreg_loss
from pretrain.methods.method import step_noise
from pretrain.methods.msbreg import MSBReg
from pretrain.recipe import Config, HeadSettings
from pretrain.training import PreTraining

CPU = torch.device("cpu")


def variants(views: int, images: int, size: int) -> dict[str, Callable[[], None]]:
    """Functions that compute the gradient of one step, each in its own network."""
    config = Config(arch="resnet18", views=views, batch_size=images, head=HeadSettings(512, 128))
    method = MSBReg(config)
    method.to(CPU, synchronize=False)
    online, target = method.online, method.target
    training = PreTraining(method, config, CPU, steps=1, epoch=1)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (views, images, 3, size, size), generator=generator).byte()
    noise = step_noise(0, 0, images, 128, share="image")

    def at_once(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
        own = copy.deepcopy(online)

        def run() -> None:
            inputs = [normalize(view, CPU) for view in pixels]
            with torch.no_grad():
                targets = torch.stack([target(view) for view in inputs])
            loss(torch.stack([own(view) for view in inputs]), targets).backward()

        return run

    def view_by_view() -> None:
        for loss in training.losses(online, pixels, 0):
            loss.total.backward()

    def whole_loss(p: Tensor, z: Tensor) -> Tensor:
        return msbreg_loss(p, z, noise, lambda_s=4e-3, lambda_b=0.5).total

    found = {"one view at a time": view_by_view, "all views at once": at_once(whole_loss)}
    if importlib.util.find_spec("lightly") is not None:
        from lightly.loss import NegativeCosineSimilarity

        criterion = NegativeCosineSimilarity()

        def all_pairs(p: Tensor, z: Tensor) -> Tensor:
            pairs = [criterion(p[j], z[k]) for j in range(views) for k in range(views) if j != k]
            return torch.stack(pairs).mean()

        found["lightly's loss, all pairs"] = at_once(all_pairs)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="run one variant once and print its peak memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = variants(options.views, options.images, options.size)
    if options.only:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        chosen[options.only]()
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
        return
    for run in chosen.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(options.rounds):
        for name, run in chosen.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
    reference = statistics.median(seconds["all views at once"])
    for name, times in seconds.items():
        command = [sys.executable, __file__, "--only", name]
        for flag in ("views", "images", "size"):
            command += [f"--{flag}", str(getattr(options, flag))]
        peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        median = statistics.median(times)
        print(f"{name:26} {median:7.2f} s  {median / reference:5.2f} x  {peak:7.0f} MB")


if __name__ == "__main__":
    main()
