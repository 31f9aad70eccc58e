"""The network that a protocol evaluates: how it is loaded, its transform and its representation."""

from dataclasses import dataclass
from pathlib import Path

from msbreg.backbones.backbone_interface import Backbone
from msbreg.backbones.inference import FrozenBackbone, compiles
from msbreg.backbones.spec import Provenance
from msbreg.backbones.twin import random_backbone
from msbreg.backbones.vit_architectures import TIMM, is_resnet
from msbreg.checkpoints.load import load_backbone
from msbreg.data.images import LabeledImages
from msbreg.data.transforms import EvaluationTransform, default_transform
from msbreg.run.config import plain
from msbreg.run.errors import UserError
from msbreg.run.job import Job, log
from transfer.frozen.feature_cache import Features, Pass, extract
from transfer.frozen.frozen_config import FrozenConfig, NetworkConfig, TransformConfig


def open_network(config: NetworkConfig) -> tuple[Backbone, Provenance]:
    """The backbone that the settings name: of a checkpoint, an untrained twin, or of an architecture."""
    if config.checkpoint != "random":
        return _load(config, Path(config.checkpoint))
    if config.twin_of is not None:
        _, of = _load(config, config.twin_of)
        return random_backbone(of.spec, seed=config.seed)
    arch = config.arch or "resnet18-narrow"
    size = config.image_size or default_image_size(arch)
    return random_backbone(arch, seed=config.seed, image_size=size)


def load_network(config: NetworkConfig, job: Job) -> tuple[Backbone, Provenance]:
    """Load the frozen backbone; its provenance goes into the record."""
    backbone, provenance = open_network(config)
    job.record.content["network"] = provenance.as_dict() | {
        "name": network_name(config, provenance)
    }
    log.info(
        "%s: %s of %s (%s)",
        config.checkpoint,
        provenance.encoder,
        provenance.arch,
        provenance.family,
    )
    return backbone, provenance


def default_image_size(arch: str) -> int:
    """The training size that ``--checkpoint random`` assumes; 0 is that of the architecture."""
    if not is_resnet(arch):
        return 0
    return {"resnet18-narrow": 48}.get(arch, 32 if "-" in arch else 224)


def _load(config: NetworkConfig, path: Path) -> tuple[Backbone, Provenance]:
    return load_backbone(
        path.expanduser(),
        arch=config.arch,
        encoder=config.encoder,
        family=config.family,
        trust_pickle=config.trust_pickle,
    )


def network_name(config: NetworkConfig, provenance: Provenance) -> str:
    """The name of the network in tables."""
    if config.name:
        return config.name
    name = f"{provenance.details.get('method', provenance.family)} {provenance.arch}"
    return f"{name}, {provenance.encoder}" if config.encoder else name


@dataclass(frozen=True)
class FrozenNetwork:
    """A loaded network, and how its features are computed.

    Attributes:
        transform: of the images to evaluate.
        settings: of the feature pass.
    """

    backbone: Backbone
    provenance: Provenance
    transform: EvaluationTransform
    settings: Pass
    job: Job

    def features(self, images: LabeledImages, label: str) -> Features:
        """Features of all images of a split, from the cache if possible; ``label`` is its name."""
        return extract(
            self.backbone,
            self.provenance,
            images,
            self.settings,
            transform=self.transform,
            job=self.job,
            label=label,
        )

    def in_use(self, images: int, *, representation: str | None = None) -> FrozenBackbone:
        """The network itself, for features of augmented images.

        Args:
            images: their number in total, which decides whether to compile the network.
            representation: None is that of the features.
        """
        return FrozenBackbone(
            self.backbone,
            self.provenance,
            self.job.device,
            representation=representation or self.settings.representation,
            precision=self.settings.precision,
            compiled=compiles(self.settings.compiled, images),
        )


def usual_transform(provenance: Provenance) -> EvaluationTransform:
    """The default transform of a network; for models of timm, of the size that timm states."""
    size, how = provenance.image_size, provenance.interpolation
    if provenance.arch.startswith(TIMM) and size:
        return EvaluationTransform(round(size * 256 / 224), size, how or "bilinear")
    return default_transform(size, how)


def frozen_network(config: FrozenConfig, job: Job) -> FrozenNetwork:
    """Load the network; it, the transform and the representation go into the record.

    Raises:
        UserError: the network cannot be read, does not have the representation, or does not take images
            of the size of the transform.
    """
    backbone, provenance = load_network(config, job)
    transform = network_transform(config, job, backbone, provenance)
    settings = Pass(
        cache=config.cache,
        representation=chosen_representation(config.representation, backbone, job),
        precision=config.precision,
        compiled=config.compile,
        threads=config.workers,
    )
    return FrozenNetwork(backbone, provenance, transform, settings, job)


def network_transform(
    config: TransformConfig, job: Job, backbone: Backbone, provenance: Provenance
) -> EvaluationTransform:
    """The transform of the images to evaluate; it goes into the record.

    Raises:
        UserError: the network does not take images of its size.
    """
    transform = config.transform.over(usual_transform(provenance))
    if note := backbone.adaptation(transform.crop):
        job.record.content["network"]["adaptation"] = note
        log.info("%s", note)
    job.record.content["transform"] = plain(transform)
    job.record.resolve(transform=transform)
    return transform


def chosen_representation(given: str | None, backbone: Backbone, job: Job) -> str:
    """The representation to evaluate (None: the network's default); it goes into the record.

    Raises:
        UserError: the network does not have it.
    """
    representation = given or backbone.representations[0]
    if representation not in backbone.representations:
        raise UserError(
            f"representation is {representation!r}; this network has: "
            f"{', '.join(backbone.representations)}"
        )
    job.record.content["representation"] = representation
    job.record.resolve(representation=representation)
    return representation
