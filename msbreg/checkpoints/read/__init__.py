"""Read checkpoint files of any origin without running code from them."""

from msbreg.checkpoints.read.file import FileContent, read_file

__all__ = ["FileContent", "read_file"]
