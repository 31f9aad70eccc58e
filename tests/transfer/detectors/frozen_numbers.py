"""Detectron2's numbers for the cases, recorded so that our detector can be tested without it.

Written where Detectron2 is installed:  python -m tests.transfer.detectors.frozen_numbers
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.transfer.detectors.cases import batch_of, config_of, settle
from tests.transfer.detectors.detectron2_twin import its_warnings
from transfer.detectors.rcnn import build_model

FILE = Path(__file__).with_suffix(".json")
CASES = (
    "c4-narrow-mask-extra-norm",
    "fpn-r18-mask",
    "fpn-r18-boxes",
    "fpn-r18-freeze-bn",
    "fpn-r50-frozen-bgr",
    "fpn-r18-keypoints",
    "fpn-r18-narrow-mask-keypoints",
)


def ours(name: str) -> nn.Module:
    """Our model of a case, with weights that activate every branch."""
    config = config_of(name)
    torch.manual_seed(0)
    return settle(build_model(config), config)


def numbers_of(model: nn.Module, name: str) -> dict[str, Any]:
    """Losses and gradient of a batch, the weights after a step, features, and detections."""
    config = config_of(name)
    trained = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=2e-4, momentum=0.9)
    found: dict[str, Any] = {}
    with its_warnings():
        torch.manual_seed(11)
        losses = model(batch_of(config))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        found["losses"] = {key: value.item() for key, value in losses.items()}
        found["gradient"] = _norm([p.grad for p in trained if p.grad is not None])
        optimizer.step()
        found["weights"] = _norm([v for v in model.state_dict().values() if v.is_floating_point()])
        with torch.no_grad():
            batch = batch_of(config, 1)
            image = batch[0].image[None].float() / 64
            features = model.eval().backbone(image[:, :, :96, :96])
            found["features"] = {k: [v.mean().item(), v.std().item()] for k, v in features.items()}
            found["detections"] = [
                {
                    "count": len(d.boxes),
                    "boxes": d.boxes.mean(0).tolist(),
                    "scores": d.scores.mean().item(),
                    "labels": d.labels.float().mean().item(),
                    "masks": None if d.masks is None else d.masks.float().mean().item(),
                    "keypoints": None
                    if d.keypoints is None
                    else d.keypoints.float().mean((0, 1)).tolist(),
                }
                for d in model(batch)
            ]
    return found


def _norm(tensors: list[torch.Tensor]) -> float:
    return torch.stack([t.detach().double().norm() for t in tensors]).norm().item()


def main() -> None:
    """Write the file from Detectron2's models."""
    from transfer.detectors import detectron2_engine

    found = {}
    for name in CASES:
        with its_warnings():
            theirs = detectron2_engine.build_detector(config_of(name))
        theirs.load_state_dict(ours(name).state_dict())
        found[name] = numbers_of(theirs, name)
    versions = {"torch": torch.__version__, "detectron2": detectron2_engine.version()}
    rounded = json.loads(json.dumps(found), parse_float=lambda text: float(f"{float(text):.8g}"))
    FILE.write_text(json.dumps({"versions": versions, "cases": rounded}, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
