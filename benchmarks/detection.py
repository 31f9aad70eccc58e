"""Time training and inference of a detector: our engine against Detectron2, if installed.

CPU time of one thread in interleaved rounds, in a different order each round; ratios are those of medians.
Both engines use the same random weights and noise images. Heads and proposals have the sizes of the yaml;
images are smaller.

Command: python benchmarks/detection.py --config configs/coco_mask_fpn.yaml --short 320 --rounds 5
"""

import argparse
import dataclasses
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import nn

from transfer.detectors import detectron2_engine as with_detectron2
from transfer.detectors import torchvision_engine as with_torchvision
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.mapper import Sample

Run = Callable[[], object]


def sample_of(config: CfgNode, short: int, objects: int, seed: int) -> Sample:
    """A noise image with aspect ratio 4:3 and elliptic objects."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([short * 4 // 3, short])
    image = torch.randint(0, 256, (3, short, short * 4 // 3), generator=generator).byte()
    corners = torch.rand(objects, 2, 2, generator=generator)
    low = corners[:, 0] * 0.5 * size
    boxes = torch.cat((low, low + (0.1 + 0.4 * corners[:, 1]) * size), 1)
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    polygons = [
        (
            np.stack(
                [
                    (x0 + x1) / 2 + (x1 - x0) / 2 * np.cos(angles),
                    (y0 + y1) / 2 + (y1 - y0) / 2 * np.sin(angles),
                ],
                1,
            ).ravel(),
        )
        for x0, y0, x1, y1 in boxes.double().numpy()
    ]
    return Sample(
        scene=seed,
        image=image,
        height=short,
        width=short * 4 // 3,
        boxes=boxes,
        labels=torch.randint(config.MODEL.ROI_HEADS.NUM_CLASSES, (objects,), generator=generator),
        polygons=tuple(polygons) if config.MODEL.MASK_ON else None,
    )


def quiet_scores(model: nn.Module) -> None:
    """Initialize class scores so that random weights give DETECTIONS_PER_IMAGE detections."""
    nn.init.normal_(
        model.get_submodule("roi_heads.box_predictor.cls_score").weight,  # type: ignore[arg-type]
        std=0.3,
        generator=torch.Generator().manual_seed(0),
    )


def variants(config: CfgNode, samples: list[Sample], *, bf16: bool) -> dict[str, dict[str, Run]]:
    """Task -> engine -> a function that runs it once."""
    engines = {"torchvision": with_torchvision.build_detector}
    if with_detectron2.available():
        engines["detectron2"] = with_detectron2.build_detector
    models = {}
    for name, build in engines.items():
        torch.manual_seed(0)
        models[name] = build(config)
        quiet_scores(models[name])
    if bf16:
        torch.manual_seed(0)
        model = with_torchvision.build_detector(config)
        quiet_scores(model)
        model.to(memory_format=torch.channels_last)
        models["torchvision, bf16 + channels_last"] = model
    runs: dict[str, dict[str, Run]] = {"train": {}, "detect": {}}
    for name, model in models.items():
        optimizer = torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad], lr=1e-9, foreach=True
        )
        runs["train"][name] = _training(model, optimizer, samples, "bf16" in name)
        runs["detect"][name] = _detecting(model, samples[:1], "bf16" in name)
    return runs


def _training(
    model: nn.Module, optimizer: torch.optim.Optimizer, samples: list[Sample], bf16: bool
) -> Run:
    def run() -> None:
        torch.manual_seed(0)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = model.train()(samples)
        sum(losses.values()).backward()
        optimizer.step()

    return run


def _detecting(model: nn.Module, samples: list[Sample], bf16: bool) -> Run:
    def run() -> object:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return model.eval()(samples)

    return run


def rounds_of(runs: dict[str, Run], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each function, after one warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        names = list(runs)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.process_time()
            runs[name]()
            if turn:
                seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--short", type=int, default=320, help="shorter side of the images")
    parser.add_argument("--images", type=int, default=1, help="images per training step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--bf16", action="store_true", help="also time bfloat16 with channels_last")
    parser.add_argument("overrides", nargs="*", help="KEY VALUE pairs that override the yaml")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # Detectron2 uses deprecated features of PyTorch
    config = read_config(given.config, given.overrides)
    samples = [sample_of(config, given.short, 6, seed) for seed in range(given.images)]
    samples = [
        dataclasses.replace(s, height=s.height * 3 // 2, width=s.width * 3 // 2) for s in samples
    ]
    if given.bf16:
        flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
        units = [name for name in ("avx512_bf16", "amx_bf16") if name in flags]
        print("bfloat16 units of this CPU:", ", ".join(units) or "none known")
    for task, runs in variants(config, samples, bf16=given.bf16).items():
        medians = rounds_of(runs, given.rounds)
        base = medians.get("detectron2", medians["torchvision"])
        for name, seconds in medians.items():
            print(f"{task:7} {name:34} {seconds:8.3f} s   x {seconds / base:.2f}", flush=True)


if __name__ == "__main__":
    main()
