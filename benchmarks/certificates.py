"""Measure the numerical differences of correct conversions, in float64 and float32.

    python benchmarks/certificates.py --networks 100
    python benchmarks/certificates.py resnet101 wide_resnet50_2 --networks 10

Each network has random weights and realistic BatchNorm statistics: those of the inputs of its layers, with
skewed scales. It is converted in memory to the names of Detectron2 or torchvision and evaluated by the
formulas of the certificate. The exit code is 0 if all differences are within the tolerance of the
certificate, else 1.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse

import torch
from torch import nn

from msbreg.backbones.architectures import ARCHITECTURES
from msbreg.backbones.resnet import ResNet, build_backbone
from msbreg.backbones.spec import BackboneSpec
from msbreg.checkpoints.convert.certificate import (
    PRECISIONS,
    TOLERANCE,
    Errors,
    compare,
    features_of,
    noise,
    passed,
)
from msbreg.checkpoints.convert.convert import TARGETS
from msbreg.checkpoints.convert.target import Executor
from msbreg.checkpoints.layouts.names import to_dialect

SIZE = (33, 48)


@torch.no_grad()
def realistic(spec: BackboneSpec, seed: int) -> ResNet:
    """A random network with the BatchNorm statistics of its own activations."""
    backbone = build_backbone(spec, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # cumulative average
            module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.1)
            module.bias.copy_(0.3 * torch.randn(module.bias.shape, generator=generator))
    backbone.train()(torch.randn(4, 3, 64, 64, generator=generator))
    return backbone.eval()


def errors_of(spec: BackboneSpec, seed: int, target_name: str) -> Errors:
    """The differences in each stage of one network."""
    backbone, target, images = realistic(spec, seed), TARGETS[target_name], noise(*SIZE)
    wanted = {dtype: features_of(backbone, spec, images, dtype) for dtype in PRECISIONS}
    understood = target.understand(target.express(spec))
    executor = Executor(to_dialect(backbone.state_dict(), target.names), target.layout, understood)
    return compare({dtype: executor(images, dtype) for dtype in PRECISIONS}, wanted)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measure the numerical differences of correct conversions."
    )
    parser.add_argument(
        "arch", nargs="*", choices=[*ARCHITECTURES, []], help="default: five depths"
    )
    parser.add_argument(
        "--networks", type=int, default=10, help="number of networks per architecture"
    )
    options = parser.parse_args()
    names = options.arch or ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    failed = 0
    print(f"{'':<16}  networks  passed  float64 (max; {TOLERANCE:.0e} allowed)  float32 (max)")
    for name in names:
        found = [
            errors_of(BackboneSpec(name), seed, ("detectron2", "torchvision")[seed % 2])
            for seed in range(options.networks)
        ]
        good = sum(map(passed, found))
        failed += len(found) - good
        double, single = (
            max(error[kind] for errors in found for error in errors.values())
            for kind in ("relative", "float32")
        )
        print(f"{name:<16}  {len(found):8}  {good:6}  {double:30.1e}  {single:13.1e}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
