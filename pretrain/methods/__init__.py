"""METHODS: name of a pre-training method -> its class. Each method has its own file, of the same name.

This module does not import PyTorch, so that options can be checked before it is loaded.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pretrain.methods.method import Method
    from pretrain.recipe import Config

METHODS = {
    "msbreg": "MSBReg",
    "byol": "BYOL",
    "simclr": "SimCLR",
    "moco_v2": "MoCoV2",
    "moco_v3": "MoCoV3",
    "swav": "SwAV",
    "deepcluster_v2": "DeepClusterV2",
    "simsiam": "SimSiam",
    "barlow_twins": "BarlowTwins",
    "vicreg": "VICReg",
    "wmse": "WMSE",
    "dbn": "DBN",
    "dino": "DINO",
}


def build_method(config: "Config") -> "Method":
    """The method of a run, with its networks initialized from the seed.

    Raises:
        UserError: settings of the method do not fit each other; the message names them.
    """
    module = importlib.import_module(f"pretrain.methods.{config.method}")
    return getattr(module, METHODS[config.method])(config)
