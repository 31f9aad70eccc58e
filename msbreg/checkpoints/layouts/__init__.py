"""FORMATS: one row per checkpoint layout found in the wild.

To add a layout, add a row to one of the tables: how it is recognized, which encoder is taken and why,
prefix, dialect of the names, keys dropped on purpose, input normalization, place of the stride.
"""

from msbreg.checkpoints.layouts.format import Encoder, Format
from msbreg.checkpoints.layouts.rows_libraries import LIBRARIES, OURS
from msbreg.checkpoints.layouts.rows_methods import MOMENTUM, SINGLE
from msbreg.checkpoints.layouts.rows_toolboxes import LIGHTNING, OPENMMLAB, VISSL

FORMATS: tuple[Format, ...] = (
    *OURS,
    *LIBRARIES,
    *MOMENTUM,
    *SINGLE,
    *OPENMMLAB,
    *VISSL,
    *LIGHTNING,
)

__all__ = ["FORMATS", "Encoder", "Format"]
