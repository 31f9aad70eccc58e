"""Copies of the backbone during pre-training are small, complete checkpoints of the evaluated network."""

import pytest
import torch

from msbreg.checkpoints.load import load_backbone
from msbreg.run.errors import UserError
from msbreg.run.record import protocol_digest, read_record
from pretrain.method_settings import DINOSettings
from pretrain.recipe import Config
from pretrain.run import run
from tests.pretrain.test_run import small


@pytest.mark.parametrize("method", ["msbreg", "dino"])
def test_a_copy_is_the_backbone_of_the_checkpoint_and_says_its_epoch(make_folder, tmp_path, method):
    output = tmp_path / "run"
    own = {"dino": DINOSettings(prototypes=6, bottleneck=5)} if method == "dino" else {}
    run(small(make_folder(), output, keep_every=2, epochs=3, method=method, **own))
    kept = sorted(path.name for path in (output / "epochs").iterdir())
    assert kept == ["epoch-0002.pth", "epoch-0003.pth"]  # every second, and the last
    last, of = load_backbone(output / "epochs" / "epoch-0003.pth")
    whole, of_whole = load_backbone(output / "checkpoint.pth")
    assert (of.details["epoch"], of.spec) == (3, of_whole.spec)
    assert of.encoder == of_whole.encoder
    for name, value in whole.state_dict().items():
        assert torch.equal(value, last.state_dict()[name]), name
    earlier, of = load_backbone(output / "epochs" / "epoch-0002.pth")
    assert of.details["epoch"] == 2
    assert not torch.equal(earlier.conv1.weight, last.conv1.weight)
    sizes = [
        path.stat().st_size for path in (output / "epochs" / kept[0], output / "checkpoint.pth")
    ]
    assert sizes[0] < sizes[1] / 2


def test_copies_are_no_part_of_the_protocol_and_none_are_kept_by_default(make_folder, tmp_path):
    assert protocol_digest(Config(keep_every=5)) == protocol_digest(Config())
    run(small(make_folder(), tmp_path / "run", epochs=1))
    assert not (tmp_path / "run" / "epochs").exists()
    record = read_record(tmp_path / "run")
    assert record is not None
    assert record["config"]["keep_every"] == 0


def test_a_negative_number_of_epochs_is_rejected():
    with pytest.raises(UserError, match="keep_every is -1; expected 0 or more"):
        Config(keep_every=-1)
