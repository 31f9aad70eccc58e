"""Paths in options are checked before PyTorch is imported, and the message says what to do."""

import pytest

from msbreg.run.errors import UserError
from msbreg.run.inputs import check_checkpoint


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ("runs/pretrain/checkpoint.pth", "make it with python pretrain/run.py"),
        ("nowhere.pth", "expected a file such as runs/pretrain/checkpoint.pth"),
    ],
)
def test_a_missing_checkpoint_is_reported_with_what_to_do(tmp_path, monkeypatch, checkpoint, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        check_checkpoint(checkpoint)
