"""Fine-tuning equals a plain loop; its processes equal one."""

import copy

import pytest
import torch

from msbreg.backbones.resnet import ResNet, build_backbone
from msbreg.backbones.spec import IMAGENET
from msbreg.data.folder import ImageList, list_images
from msbreg.data.transforms import TrainingTransform
from msbreg.run.errors import UserError
from msbreg.run.record import read_record
from msbreg.train.loop import Plan
from tests.processes import run_group
from tests.reference.fine_tuning import losses_of_a_plain_loop
from tests.transfer.detectors.toys import fit
from tests.transfer.finetuning.fine_tuning_processes import settings
from transfer import semisupervised
from transfer.finetuning.classifier_training import (
    Candidate,
    Classifier,
    ClassifierTraining,
    limit_norm_momentum,
    rate_factor,
)
from transfer.finetuning.fine_tuning_config import Config
from transfer.frozen.head_training import augmented_batches

CPU = torch.device("cpu")
CROP = TrainingTransform(crop=16)
RATES = Candidate(head_rate=0.02, encoder_rate=0.002, weight_decay=0.0, epochs=10)


@pytest.fixture
def images(make_folder) -> ImageList:
    return list_images(make_folder(train=7) / "train")  # 14 images: two steps of 8 and 6


def training_of(
    images: ImageList, candidate: Candidate = RATES, backbone: ResNet | None = None, **rules
) -> ClassifierTraining:
    classifier = Classifier(
        backbone or build_backbone("resnet18-tiny", seed=0),
        "gap",
        2,
        torch.Generator().manual_seed(3),
        frozen=rules.get("freeze") == "encoder",
    )
    return ClassifierTraining(
        len(images),
        classifier,
        candidate,
        Config(batch_size=8, seed=3, **rules),
        IMAGENET,
        batches_of=augmented_batches(images, CROP, seed=3, workers=0, device=CPU),
        device=CPU,
    )


def losses_of(training: ClassifierTraining, folder) -> list[float]:
    state = fit(training, training.batches(0), Plan(steps=training.steps, row_every=1), folder)
    return [row["loss"] for row in state.curve]


@pytest.mark.parametrize("freeze", ["nothing", "encoder"])
def test_the_losses_of_twenty_steps_are_those_of_a_plain_loop(images, tmp_path, freeze):
    backbone = build_backbone("resnet18-tiny", seed=0)
    wanted = losses_of_a_plain_loop(
        copy.deepcopy(backbone),
        images,
        CROP,
        classes=2,
        head_rate=0.02,
        encoder_rate=0.002,
        batch_size=8,
        epochs=10,
        frozen=freeze == "encoder",
        seed=3,
    )
    found = losses_of(training_of(images, backbone=backbone, freeze=freeze), tmp_path)
    assert len(found) == 20
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def test_a_frozen_encoder_keeps_every_tensor(images, tmp_path):
    training = training_of(images, freeze="encoder")
    before = copy.deepcopy(training.model.backbone.state_dict())
    losses_of(training, tmp_path)
    after = training.model.backbone.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert training.model.head.weight.grad is not None


def test_frozen_statistics_stay_while_weights_move(images, tmp_path):
    training = training_of(images, freeze="statistics")
    before = copy.deepcopy(training.model.backbone.state_dict())
    losses_of(training, tmp_path)
    after = training.model.backbone.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(after[name], value)}
    assert "conv1.weight" in moved
    assert "bn1.weight" in moved
    assert not any("running" in name or "tracked" in name for name in moved)


def test_weight_decay_reaches_both_parts(images):
    for optimizer in ("sgd", "lars"):
        candidate = Candidate(0.2, 0.02, 1e-3, 1)
        groups = training_of(images, candidate, optimizer=optimizer).optimizer.param_groups
        decayed = {
            (group["part"], group["lr"]) for group in groups if group["weight_decay"] == 1e-3
        }
        assert decayed == {("encoder", 0.02), ("head", 0.2)}


def test_too_few_images_for_batch_norm_are_rejected(images):
    with pytest.raises(UserError, match="1 training images do not give each of 1 processes two"):
        training_of(images.subset([0]))


def test_the_rate_drops_at_epochs_or_stays():
    steps = Config(schedule="steps", drops=(12, 16), drop_factor=0.2)
    factors = [rate_factor(epoch * 5, 5, 20, steps) for epoch in (11, 12, 15, 16)]
    assert factors == pytest.approx([1, 0.2, 0.2, 0.04])
    assert rate_factor(99, 5, 20, Config(schedule="constant")) == 1


def test_a_schedule_per_epoch_changes_between_epochs_only(images):
    training = training_of(images, every_step=False)
    rates = [training.learning_rates(step)[0] for step in range(6)]
    assert rates[0] == rates[1] > rates[2] == rates[3] > rates[4]


def test_running_statistics_remember_short_epochs():
    backbone = build_backbone("resnet18-tiny", seed=0)
    limit_norm_momentum(backbone, 10 / 500)
    assert backbone.bn1.momentum == 0.02
    limit_norm_momentum(backbone, 10 / 3)
    assert backbone.bn1.momentum == 0.1


def test_three_processes_train_the_classifier_of_one(make_folder, tmp_path):
    """14 images: steps of 8 and 6, whose shares are 3, 3, 2 and 2, 2, 2; and 10 test images."""
    data = make_folder(train=7, val=5)
    semisupervised.run(settings(data, tmp_path / "one"))
    module = "tests.transfer.finetuning.fine_tuning_processes"
    for code, _, message in run_group(module, data, tmp_path / "three", processes=3):
        assert code == 0, message
    found = weights(tmp_path / "three")
    for name, value in weights(tmp_path / "one").items():
        # Gradients are means over processes: float32 sums in another order.
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    top1 = [read_record(tmp_path / name)["results"]["top1"] for name in ("one", "three")]
    assert top1[0] == top1[1]


def weights(folder) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoint.pth", weights_only=True)
    return content["model"]
