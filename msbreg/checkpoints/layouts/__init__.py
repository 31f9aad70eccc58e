"""FORMATS: the known checkpoint layouts, one row each.

To add a layout, add a row to one of the tables. A row states how the layout is recognized, which
encoder is used and why, the prefix and naming dialect of its tensors, the keys to drop, the input
normalization, and the position of the stride or how position embeddings are adapted.
"""

from msbreg.checkpoints.layouts.format import Encoder, Format
from msbreg.checkpoints.layouts.rows_libraries import LIBRARIES, OURS
from msbreg.checkpoints.layouts.rows_methods import MOMENTUM, SINGLE
from msbreg.checkpoints.layouts.rows_toolboxes import LIGHTNING, OPENMMLAB, VISSL
from msbreg.checkpoints.layouts.rows_transformers import TRANSFORMERS

FORMATS: tuple[Format, ...] = (
    *OURS,
    *LIBRARIES,
    *MOMENTUM,
    *SINGLE,
    *OPENMMLAB,
    *VISSL,
    *LIGHTNING,
    *TRANSFORMERS,
)

__all__ = ["FORMATS", "Encoder", "Format"]
