"""The streamed route of the linear protocol: augmented images pass through the frozen network every epoch.

All heads are trained on one pass, and the one chosen on held-out training images is scored as it is: training
it again would take as long as the first time.
"""

import numpy as np
import torch
from torch import Tensor

from msbreg.backbones.backbone_interface import TOKENS
from msbreg.backbones.features import outputs_of_all
from msbreg.backbones.inference import FrozenBackbone
from msbreg.data.images import LabeledImages
from msbreg.data.transforms import TrainingTransform
from msbreg.run.config import plain
from msbreg.run.errors import RunFailed
from msbreg.run.job import Job
from transfer.frozen.attentive import AttentiveHeads
from transfer.frozen.feature_cache import BATCH
from transfer.frozen.frozen_network import FrozenNetwork, frozen_network
from transfer.frozen.head_training import CachedFeatures, HeadTraining, augmented_batches
from transfer.frozen.heads import Heads, held_out_split
from transfer.frozen.linear.head_choice import (
    Choice,
    ChosenHead,
    choose,
    head_plan,
    head_settings,
    logits_of,
    selection,
)
from transfer.frozen.linear.head_phases import STREAMING, train_phase
from transfer.frozen.linear.linear_config import Config


def fit_streamed(
    config: Config, job: Job, train_images: LabeledImages, test_images: LabeledImages
) -> ChosenHead:
    """Train all heads on augmented images; apply the chosen one to the test images.

    Raises:
        UserError: the network does not take images of the size of the crops, or every head diverged.
        RunFailed: the weights of the network changed.
    """
    loaded = frozen_network(config, job)
    labels, classes = torch.from_numpy(np.asarray(train_images.labels)), len(train_images.classes)
    settings = head_settings(config)
    kept, held = torch.arange(len(labels)), torch.arange(0)
    if len(settings) > 1:
        kept, held = held_out_split(labels, config.held_out, config.seed)
    used = train_images.subset(kept.numpy())
    augmentation = _augmentation(config, job, loaded)
    attentive = config.head == "attentive"
    network = loaded.in_use(len(used) * config.epochs, representation=TOKENS if attentive else None)
    before = network.digest()
    generator = torch.Generator().manual_seed(config.seed)
    start = (
        AttentiveHeads(network.width, classes, settings, generator, queries=config.queries)
        if attentive
        else Heads(network.width, classes, settings, generator)
    )
    training = HeadTraining(
        len(used),
        start,
        head_plan(config),
        features_of=network.features,
        batches_of=augmented_batches(
            used,
            augmentation,
            seed=config.seed,
            workers=config.loading,
            device=job.device,
        ),
        device=job.device,
    )
    heads, losses = train_phase(job, training, STREAMING, {})
    if network.digest() != before:
        raise RunFailed("the weights of the frozen network changed during training; this is a bug")

    # ---- The held-out images choose a head; the test images score it, once.
    def outputs_of(images: LabeledImages, label: str) -> Tensor:  # (N, L, C)
        if attentive:
            return _outputs_of_images(network, heads, images, loaded, label)
        x = loaded.features(images, label).x
        return logits_of(heads, CachedFeatures(x, job.device), torch.arange(len(images)))

    choice = Choice(0, {})
    if len(held):
        outputs = outputs_of(train_images.subset(held.numpy()), "held-out images")
        choice = choose(config, losses, outputs.argmax(2), labels[held])
    job.record.content["selection"] = selection(config, "scored without training it again")
    outputs = outputs_of(test_images, config.val_split)[:, choice.head]
    layer = None if attentive else heads.as_linear(choice.head)
    return ChosenHead(choice, outputs.numpy(), float(losses[choice.head]), layer)


def _augmentation(config: Config, job: Job, loaded: FrozenNetwork) -> TrainingTransform:
    """The augmentation of the training images; it goes into the record."""
    augmentation = config.augmentation.over(
        TrainingTransform(crop=loaded.transform.crop, interpolation=loaded.transform.interpolation)
    )
    loaded.backbone.adaptation(augmentation.crop)  # refuses sizes that the network does not take
    job.record.content["augmentation"] = plain(augmentation)
    job.record.resolve(augmentation=augmentation)
    return augmentation


class _Outputs:
    """The heads' outputs for pixels, where ``feature_batches`` expects a network's features."""

    compiled = False

    def __init__(self, network: FrozenBackbone, heads: Heads) -> None:
        self.network, self.heads = network, heads

    def __call__(self, pixels: Tensor) -> Tensor:  # (B, L C), on the CPU
        with torch.inference_mode():
            return self.heads.logits(self.network.features(pixels)).flatten(1).cpu()


def _outputs_of_images(
    network: FrozenBackbone,
    heads: Heads,
    images: LabeledImages,
    loaded: FrozenNetwork,
    label: str,
) -> Tensor:  # (N, L, C)
    """The outputs for all images; each process computes those of its images."""
    outputs = outputs_of_all(
        _Outputs(network, heads),
        images,
        len(heads.settings) * heads.classes,
        transform=loaded.transform,
        batch_size=BATCH,
        threads=loaded.settings.threads,
        label=f"outputs for {label}",
    )
    return outputs.unflatten(1, (-1, heads.classes))
