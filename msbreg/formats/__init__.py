"""FORMATS: one row per checkpoint layout found in the wild.

To add a layout, add a row to one of the tables: how it is recognised, which encoder is taken and why,
prefix, dialect of the names, keys dropped on purpose, input normalisation, place of the stride.
"""

from msbreg.formats.row import Encoder, Format
from msbreg.formats.rows_libraries import LIBRARIES, OURS
from msbreg.formats.rows_momentum import MOMENTUM
from msbreg.formats.rows_single import SINGLE
from msbreg.formats.rows_toolboxes import LIGHTNING, OPENMMLAB, VISSL

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
