import pytest
import torch

from msbreg.data.transforms import AugmentationOptions
from msbreg.run.errors import RunFailed
from msbreg.run.record import read_record
from tests.transfer import test_protocols
from tests.transfer.test_protocols import common
from transfer import linear
from transfer.frozen.head_training import HeadTraining
from transfer.frozen.linear import head_phases

checkpoint, data = test_protocols.checkpoint, test_protocols.data  # fixtures


def streamed(tmp_path, data, checkpoint, output="run", **changes) -> linear.Config:
    settings = common(tmp_path, data, checkpoint, output) | {
        "route": "streamed",
        "epochs": 6,
        "batch_size": 8,
        "learning_rates": (0.1, 1.0),
        "norms": ("no_affine", "affine"),
        "loading": 0,
        "held_out": 0.2,
    }
    return linear.Config(**settings | changes)


def test_streamed_heads_are_chosen_on_held_out_training_images_and_scored_once(
    tmp_path, data, checkpoint
):
    results = linear.run(streamed(tmp_path, data, checkpoint))
    record = read_record(tmp_path / "run")
    assert record["selection"] == (
        "head on 20 % of the training images, held out; scored without training it again"
    )
    assert list(results["held_out_top1"]) == [
        f"{rate}, {norm}" for rate in (0.1, 1.0) for norm in ("no_affine", "affine")
    ]
    assert results["head"] in results["held_out_top1"]
    best = max(results["held_out_top1"].values())
    assert results["held_out_top1"][results["head"]] == best
    assert results["top1"] > 50  # three color casts, chance 33
    assert record["augmentation"] == {
        "crop": 16,
        "area": [0.08, 1.0],
        "ratio": [3 / 4, 4 / 3],
        "flip": 0.5,
        "interpolation": "bilinear",
    }
    assert "of augmented images" in record["scores"][0]["rules"]


def test_a_single_streamed_head_is_trained_on_all_images(tmp_path, data, checkpoint):
    config = streamed(tmp_path, data, checkpoint, learning_rates=(0.1,), norms=("affine",))
    linear.run(config)
    record = read_record(tmp_path / "run")
    assert record["selection"] == "nothing is selected: one learning rate was given"
    assert record["results"]["held_out_top1"] == {}


def test_streamed_training_continues_bit_for_bit(tmp_path, data, checkpoint, monkeypatch):
    wanted = linear.run(streamed(tmp_path, data, checkpoint, "whole"))
    monkeypatch.setattr(head_phases, "SAVE_SECONDS", 0.0)
    batches, count = HeadTraining.batches, 0

    def interrupted(self, first_step):
        nonlocal count
        for batch in batches(self, first_step):
            count += 1
            if count == 5:
                raise RunFailed("the power went out")
            yield batch

    monkeypatch.setattr(HeadTraining, "batches", interrupted)
    with pytest.raises(RunFailed, match="the power went out"):
        linear.run(streamed(tmp_path, data, checkpoint, "broken"))
    assert linear.run(streamed(tmp_path, data, checkpoint, "broken")) == wanted
    assert count > 5
    whole, broken = (
        torch.load(tmp_path / name / "heads.pth", weights_only=True)["model"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())


def test_a_frozen_network_that_changes_is_a_failure(tmp_path, data, checkpoint, monkeypatch):
    features = HeadTraining.losses

    def spoiling(self, forward, batch, step):
        with torch.no_grad():
            self.features_of.__self__.network.conv1.weight += 1e-3
        return features(self, forward, batch, step)

    monkeypatch.setattr(HeadTraining, "losses", spoiling)
    with pytest.raises(RunFailed, match="weights of the frozen network changed"):
        linear.run(streamed(tmp_path, data, checkpoint))


def test_attentive_probes_are_chosen_and_scored_like_linear_heads(tmp_path, data, checkpoint):
    settings = {"head": "attentive", "queries": 2, "norms": ("no_affine",)}
    results = linear.run(streamed(tmp_path, data, checkpoint, **settings))
    record = read_record(tmp_path / "run")
    assert record["scores"][0]["name"] == "attentive top-1"
    assert "attentive probe with 2 queries" in record["scores"][0]["rules"]
    assert list(results["held_out_top1"]) == ["0.1", "1.0"]
    assert results["top1"] > 50  # three color casts, chance 33


def test_options_of_the_augmentation_keep_the_rest_of_the_default(tmp_path, data, checkpoint):
    augmentation = AugmentationOptions(flip=0.0)
    linear.run(streamed(tmp_path, data, checkpoint, augmentation=augmentation, epochs=1))
    used = read_record(tmp_path / "run")["augmentation"]
    assert (used["crop"], used["flip"], used["area"]) == (16, 0.0, [0.08, 1.0])
