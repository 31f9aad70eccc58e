"""METHODS: name -> how to build it from the settings of a run. One file each."""

from collections.abc import Callable

from pretrain.methods.byol import BYOL
from pretrain.methods.method import Method
from pretrain.methods.msbreg import MSBReg
from pretrain.recipe import Config

METHODS: dict[str, Callable[[Config], Method]] = {"msbreg": MSBReg, "byol": BYOL}
"""The type of ``Config.method`` in pretrain/recipe.py names the same ones, for options."""
