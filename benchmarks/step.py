"""Compare a whole pre-training step with lightly's and solo-learn's BYOL, in time and memory.

All variants see the same uint8 views on the same ResNet-18 and heads of the same size, and each makes a full
step: normalization, both networks, all pairs of views, backward pass, LARS, moving average.

lightly's variant is written with its own heads, loss, optimizer and momentum update, as in its example for
BYOL, and needs the package. solo-learn cannot be installed beside a current PyTorch. Its variant is written
here after its BYOL: channels_last inputs, one forward pass per view, a loss per pair, and a linear classifier
that is trained along.

CPU time of one thread, in interleaved rounds; memory is the growth of the peak of a separate process per
variant, without the one-time costs of the first step. bfloat16 pays only on CPUs with AMX or AVX512-BF16.

Command: taskset -c 0 python benchmarks/step.py --views 4 --images 32 --size 96
"""

import argparse
import copy
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor, nn

from msbreg.backbones.resnet import build_backbone, embed, normalize
from msbreg.train.optimizers import LARS, lars_groups
from pretrain.losses import pairwise_loss
from pretrain.methods import build_method
from pretrain.methods.encoders import Online, Target, copied, head, update_target
from pretrain.recipe import Config, HeadSettings
from pretrain.training import PreTraining
from pretrain.view_batches import ViewBatch

CPU = torch.device("cpu")
HIDDEN, OUT = 512, 128
RATE, DECAY = 0.1, 0.99


def pixels_of(views: int, images: int, size: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (views, images, 3, size, size)
    return list(torch.randint(0, 256, shape, generator=generator).byte())


def ours(method: str, precision: str, pixels: list[Tensor]) -> Callable[[], None]:
    """The step of ``pretrain/run.py``."""
    images = len(pixels[0])
    config = Config(
        method=method,
        arch="resnet18",
        views=len(pixels),
        batch_size=images,
        head=HeadSettings(HIDDEN, OUT),
        precision=precision,
    )
    made = build_method(config)
    made.to(CPU, synchronize=False)
    made.train_mode()
    training = PreTraining(made, config, CPU, steps=1000, epoch=1000)
    for group in training.optimizer.param_groups:
        group["lr"] = RATE
    batch = ViewBatch(pixels, torch.arange(images))

    def step() -> None:
        training.optimizer.zero_grad()
        for loss in training.losses(training.model, batch, 0):
            loss.total.backward()
        training.before_update()
        training.optimizer.step()
        training.after_step(0)

    return step


def all_at_once(pixels: list[Tensor]) -> Callable[[], None]:
    """BYOL with all views in memory, as a whole-batch loss needs it."""
    online, target = networks()
    optimizer = LARS(lars_groups(online, weight_decay=1e-5), lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        inputs = [normalize(view, CPU) for view in pixels]
        with torch.no_grad():
            targets = torch.stack([target(view) for view in inputs])
        predictions = torch.stack([online(view) for view in inputs])
        pairwise_loss(predictions, targets).backward()
        optimizer.step()
        update_target(target, online, DECAY)

    return step


def networks() -> tuple[Online, Target]:
    backbone = build_backbone("resnet18", seed=0)
    project, predict = head(512, HIDDEN, OUT, "bn"), head(OUT, HIDDEN, OUT, "bn")
    online = Online(backbone, project, predict)
    return online, copied(Target(backbone, project))


def lightly_byol(pixels: list[Tensor]) -> Callable[[], None]:
    """BYOL from lightly's parts."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
    from lightly.models.utils import get_weight_decay_parameters, update_momentum
    from lightly.utils.lars import LARS as LightlyLARS

    backbone = build_backbone("resnet18", seed=0)
    project, predict = BYOLProjectionHead(512, HIDDEN, OUT), BYOLPredictionHead(OUT, HIDDEN, OUT)
    teacher, teacher_project = copy.deepcopy(backbone), copy.deepcopy(project)
    criterion = NegativeCosineSimilarity()
    decayed, plain = get_weight_decay_parameters([backbone, project, predict])
    optimizer = LightlyLARS(
        [{"params": decayed}, {"params": plain, "weight_decay": 0.0}], lr=RATE, weight_decay=1e-5
    )

    def step() -> None:
        optimizer.zero_grad()
        inputs = [normalized(view) for view in pixels]
        predictions = [predict(project(embed(backbone, view))) for view in inputs]
        with torch.no_grad():
            targets = [teacher_project(embed(teacher, view)) for view in inputs]
        pairs = [
            criterion(p, z)
            for i, p in enumerate(predictions)
            for j, z in enumerate(targets)
            if i != j
        ]
        torch.stack(pairs).mean().backward()
        optimizer.step()
        update_momentum(backbone, teacher, DECAY)
        update_momentum(project, teacher_project, DECAY)

    return step


def solo_byol(pixels: list[Tensor]) -> Callable[[], None]:
    """BYOL the way solo-learn computes it."""
    online, target = networks()
    online, target = (
        online.to(memory_format=torch.channels_last),
        target.to(memory_format=torch.channels_last),
    )
    classifier = nn.Linear(512, 100)
    labels = torch.arange(len(pixels[0])) % 100
    parameters = lars_groups(nn.ModuleList([online, classifier]), weight_decay=1e-5)
    optimizer = LARS(parameters, lr=RATE)

    def step() -> None:
        optimizer.zero_grad()
        inputs = [normalized(v).to(memory_format=torch.channels_last) for v in pixels]
        features = [embed(online.backbone, view) for view in inputs]
        predictions = [online.predictor(online.projector(f)) for f in features]
        with torch.no_grad():
            targets = [target(view) for view in inputs]
        total = torch.zeros(())
        for i, p in enumerate(predictions):
            for j, z in enumerate(targets):
                if i != j:
                    cosine = nn.functional.cosine_similarity(p, z.detach(), dim=-1)
                    total = total + 2 - 2 * cosine.mean()
        logits = [classifier(f.detach()) for f in features]
        total = total + sum(nn.functional.cross_entropy(each, labels) for each in logits)
        total.backward()
        optimizer.step()
        update_target(target, online, DECAY)

    return step


def normalized(view: Tensor) -> Tensor:
    """float32 and contiguous, as the other suites' loaders give it."""
    return normalize(view, CPU).contiguous()


def variants(pixels: list[Tensor]) -> dict[str, Callable[[], Callable[[], None]]]:
    """Name -> a function that builds the step."""
    found: dict[str, Callable[[], Callable[[], None]]] = {
        "lightly BYOL": lambda: lightly_byol(pixels),
        "solo-learn's BYOL": lambda: solo_byol(pixels),
        "ours, BYOL": lambda: ours("byol", "fp32", pixels),
        "ours, MSBReg": lambda: ours("msbreg", "fp32", pixels),
        "ours, MSBReg, bf16": lambda: ours("msbreg", "bf16", pixels),
        "ours, all views in memory": lambda: all_at_once(pixels),
    }
    if importlib.util.find_spec("lightly") is None:
        del found["lightly BYOL"]
    return found


def memory(entry: str) -> float:
    """Current (VmRSS) or peak (VmHWM) memory of this program in MB; getrusage inherits the parent's peak."""
    (line,) = [
        row for row in Path("/proc/self/status").read_text().split("\n") if row.startswith(entry)
    ]
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", help="run one variant for two steps and print its peak memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = variants(pixels_of(options.views, options.images, options.size))
    if options.only:
        step = chosen[options.only]()
        before = memory("VmRSS")
        step()
        step()
        print(memory("VmHWM") - before)
        return
    steps = {name: build() for name, build in chosen.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            start = time.process_time()
            step()
            seconds[name].append(time.process_time() - start)
    reference = next(iter(seconds))
    print(f"{'':28}{'s':>7}  x {reference:16} spread   peak")
    for name, times in seconds.items():
        command = [sys.executable, __file__, "--only", name]
        for flag in ("views", "images", "size"):
            command += [f"--{flag}", str(getattr(options, flag))]
        peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        ratios = [one / other for one, other in zip(times, seconds[reference], strict=True)]
        print(
            f"{name:28}{statistics.median(times):7.2f}  {statistics.median(ratios):18.2f} "
            f"{max(ratios) - min(ratios):6.2f} {peak:6.0f} MB"
        )


if __name__ == "__main__":
    main()
