import argparse

import pytest
import torch

from msbreg.errors import UserError
from msbreg.reading import read_file


@pytest.mark.parametrize("legacy", [False, True])
def test_options_beside_the_weights_need_trust(tmp_path, legacy):
    path = tmp_path / "x.pth"
    content = {"model": {"w": torch.arange(4.0)}, "args": argparse.Namespace(lr=1.0)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"argparse.Namespace +the training script's options"):
        read_file(path)
    found = read_file(path, trust_pickle=True)
    assert torch.equal(found.content["model"]["w"], torch.arange(4.0))
    assert found.stubbed == ("argparse.Namespace",)
