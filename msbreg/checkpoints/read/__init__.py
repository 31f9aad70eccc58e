"""Checkpoint files of any origin, read without running code in them."""

from msbreg.checkpoints.read.file import FileContent, read_file

__all__ = ["FileContent", "read_file"]
