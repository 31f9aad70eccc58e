"""Pre-train vision backbones without labels, and evaluate how well any backbone transfers.

The names below are the public Python API. They are imported on first use, so that scripts can check
their options before PyTorch is loaded.

>>> import msbreg
>>> sorted(msbreg.__all__)
['extract_features', 'load_backbone', 'random_backbone']
"""

import importlib
from typing import Any

__version__ = "0.1.0"
__all__ = ["extract_features", "load_backbone", "random_backbone"]

_MODULES = {
    "extract_features": "msbreg.backbones.features",
    "load_backbone": "msbreg.checkpoints.load",
    "random_backbone": "msbreg.backbones.twin",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'msbreg' has no attribute {name!r}; it has {__all__}")
    return getattr(importlib.import_module(_MODULES[name]), name)
