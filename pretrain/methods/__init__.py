"""METHODS: name of a pre-training method -> its class. Each method has its own file."""

from collections.abc import Callable

from pretrain.methods.byol import BYOL
from pretrain.methods.method import Method
from pretrain.methods.msbreg import MSBReg
from pretrain.recipe import Config

METHODS: dict[str, Callable[[Config], Method]] = {"msbreg": MSBReg, "byol": BYOL}
"""The type of ``pretrain.recipe.Config.method`` lists the same names, as choices of the option."""
