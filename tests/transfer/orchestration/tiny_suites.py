"""Checkpoints and data sets with which a suite takes seconds."""

from pathlib import Path
from typing import Any

from msbreg.backbones.resnet import build_backbone
from msbreg.checkpoints.load import save_checkpoint
from transfer.orchestration.suite_config import Config


def save_untrained(
    path: Path, *, seed: int = 7, arch: str = "resnet18-narrow", size: int = 16
) -> Path:
    """A checkpoint of pretrain/run.py with an untrained network."""
    path.parent.mkdir(parents=True, exist_ok=True)
    backbone = build_backbone(arch, seed=seed)
    config = {"method": "msbreg", "views": 2, "epochs": 1, "batch_size": 4, "seed": seed}
    online = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    content = {"arch": arch, "image_size": size, "step": 3, "steps": 9}
    save_checkpoint(path, content | {"config": config, "online": online})
    return path


def tiny_config(folder: Path, data: Path | str | None, **settings: Any) -> Config:
    """kNN of an untrained checkpoint in ``folder``, without twins and without the gate."""
    tiny: dict[str, Any] = {
        "data": (str(data),) if data else (),
        "output": folder / "runs",
        "only": ("knn",),
        "skip": ("gate",),
        "random_seeds": 0,
        "random_fine_tuned": 0,
        "device": "cpu",
        "workers": 1,
    }
    if "checkpoints" not in settings:
        tiny["checkpoint"] = folder / "checkpoint.pth"
        if not tiny["checkpoint"].exists():
            save_untrained(tiny["checkpoint"])
    return Config(**(tiny | settings))
