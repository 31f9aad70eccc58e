"""The properties of a backbone that its tensors do not show, and the provenance of its weights.

Networks with equal tensors but different specs compute different features. The untrained twin, the evaluation
transform, the conversion and the report all use the spec of the checkpoint. This module does not import
PyTorch, so that options can be checked before it is loaded.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from msbreg.backbones.architectures import Architecture, architecture
from msbreg.backbones.vit_architectures import (
    EVERY_POSITIONS,
    VITS,
    Positions,
    Transformer,
    check_backbone_name,
    is_resnet,
    no_resnet,
)
from msbreg.run.errors import UserError

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Normalization:
    """Input normalization of a network: (pixels / 255 - mean) / std, per channel.

    Attributes:
        mean: mean of pixels in [0, 1], in the order of ``channels``.
        std: standard deviation of pixels in [0, 1], in the order of ``channels``.
        channels: channel order that the network expects. Images are RGB everywhere in this suite.

    Raises:
        UserError: these are not three means in [-1, 2] and three standard deviations in (0, 2].

    >>> IMAGENET.pixel_mean
    (123.675, 116.28, 103.53)
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["RGB", "BGR"] = "RGB"

    def __post_init__(self) -> None:
        numbers = [v for v in (*self.mean, *self.std) if type(v) in (int, float)]
        right = len(self.mean) == len(self.std) == 3 and len(numbers) == 6
        if (
            not right
            or not all(-1 <= mean <= 2 for mean in self.mean)
            or not all(0 < std <= 2 for std in self.std)
            or self.channels not in ("RGB", "BGR")
        ):
            raise UserError(
                f"the normalization has channels {self.channels}, mean {self.mean} and std {self.std}; "
                "expected RGB or BGR, three means in [-1, 2] and three stds in (0, 2], for pixels in [0, 1]"
            )

    @property
    def pixel_mean(self) -> tuple[float, ...]:
        """Mean of pixels in [0, 255], rounded to 15 digits: 123.675 instead of 123.67499999999998."""
        return tuple(float(f"{255 * value:.15g}") for value in self.mean)

    @property
    def pixel_std(self) -> tuple[float, ...]:
        """Standard deviation of pixels in [0, 255], rounded to 15 digits."""
        return tuple(float(f"{255 * value:.15g}") for value in self.std)


def of_gray_levels(mean: Sequence[float], std: Sequence[float], channels: str) -> Normalization:
    """The normalization (pixels - mean) / std for pixels in [0, 255], as in Detectron2.

    Raises:
        UserError: the values are out of range for pixels in [0, 255].
    """
    scaled_mean, scaled_std = (tuple(value / 255 for value in values) for values in (mean, std))
    return Normalization(scaled_mean, scaled_std, channels)  # type: ignore[arg-type]


def describe_input(normalization: Normalization) -> str:
    """An input normalization as text."""
    n = normalization
    mean, std = (", ".join(f"{v:.4g}" for v in values) for values in (n.mean, n.std))
    return f"{n.channels} / 255, mean {mean}, std {std}"


# The statistics of ImageNet's training images (torchvision, MoCo, BYOL, ...), which our own pre-training uses
# for all data sets.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class BackboneSpec:
    """The properties of a backbone that its tensors do not show.

    Attributes:
        arch: name in ARCHITECTURES or VITS, or ``timm/NAME``.
        normalization: input normalization, including the channel order.
        stride_in_1x1: whether bottlenecks have stride 2 in the first 1x1 convolution (v1, as in Caffe and
            MSRA) instead of the 3x3 convolution (v1.5, as in torchvision). Always False for other networks.
        image_size: size in pixels of the images used in pre-training; 0 if unknown. For a vision
            transformer, the size to which its position embeddings belong; 0 means its architecture's.
        positions: how a vision transformer adapts its position embeddings to images of another size; None
            means as its architecture's source does. Always None for other networks.
        interpolation: how images are resized by default; None means bilinear for ResNets and bicubic for
            other networks (DINO, DINOv2 and MAE).

    Raises:
        UserError: the architecture is unknown, or the image size is not a multiple of the patch size.

    >>> spec = BackboneSpec("resnet50", stride_in_1x1=True, image_size=224)
    >>> spec.stride, spec.architecture.channels["c5"]
    ('1x1', 2048)
    """

    arch: str
    normalization: Normalization = IMAGENET
    stride_in_1x1: bool = False
    image_size: int = 0
    positions: Positions | None = None
    interpolation: Interpolation | None = None

    def __post_init__(self) -> None:
        vit, resnet = self.transformer, is_resnet(self.arch)
        if not resnet:
            check_backbone_name(self.arch)
        if not resnet or not self.architecture.bottleneck:
            object.__setattr__(self, "stride_in_1x1", False)
        if self.interpolation is None:
            object.__setattr__(self, "interpolation", "bilinear" if resnet else "bicubic")
        if vit is None:
            object.__setattr__(self, "positions", None)
            return
        object.__setattr__(self, "positions", self.positions or vit.positions)
        object.__setattr__(self, "image_size", self.image_size or vit.image_size)
        if self.image_size % vit.patch:
            raise UserError(
                f"image_size is {self.image_size}; a {self.arch} expects a multiple of its patch size "
                f"{vit.patch}"
            )

    @property
    def architecture(self) -> Architecture:
        """Depth, width and stem of a ResNet.

        Raises:
            UserError: the network is no ResNet; the message says which tasks accept it.
        """
        if reason := no_resnet(self.arch):
            raise UserError(reason)
        return architecture(self.arch)

    @property
    def transformer(self) -> Transformer | None:
        """The architecture of a vision transformer; None for other networks."""
        return VITS.get(self.arch)

    @property
    def stride(self) -> Literal["3x3", "1x1"]:
        """The convolution of a bottleneck with stride 2, as written in records."""
        return "1x1" if self.stride_in_1x1 else "3x3"

    def as_dict(self) -> dict[str, Any]:
        """The entries of records and exported files: arch, image_size, normalization, and stride.

        Networks other than ResNets have no stride, but the interpolation of images and of positions.
        """
        shared = {
            "arch": self.arch,
            "image_size": self.image_size,
            "normalization": asdict(self.normalization),
        }
        if is_resnet(self.arch):
            return shared | {"stride": self.stride}
        positions = {"positions": self.positions} if self.positions else {}
        return shared | {"interpolation": self.interpolation} | positions


def spec_of_record(
    network: Mapping[
        str, Any
    ],  # the entry `network` of a record, or the entries of an exported file
) -> BackboneSpec:
    """The inverse of ``BackboneSpec.as_dict``. Other keys are ignored; missing keys take their defaults.

    Also accepts the key ``normalisation`` of version 0.1.0.

    Raises:
        UserError: a value is invalid; the message names the key.
    """
    arch, stride = network.get("arch"), network.get("stride", "3x3")
    size = network.get("image_size", 0)
    if not isinstance(arch, str):
        raise UserError(f"arch is {arch!r}; expected the name of an architecture")
    if stride not in ("3x3", "1x1"):
        raise UserError(f"stride is {stride!r}; expected 3x3 or 1x1")
    if not isinstance(size, int) or size < 0:
        raise UserError(f"image_size is {size!r}; expected a number of pixels")
    for key, known in (("positions", EVERY_POSITIONS), ("interpolation", ("bilinear", "bicubic"))):
        if network.get(key) not in (None, *known):
            raise UserError(f"{key} is {network[key]!r}; expected {' or '.join(known)}")
    value = network.get("normalization", network.get("normalisation"))
    normalization = IMAGENET if value is None else normalization_of(value)
    return BackboneSpec(
        arch,
        normalization,
        stride == "1x1",
        size,
        network.get("positions"),
        network.get("interpolation"),
    )


def normalization_of(value: Any) -> Normalization:
    """A normalization from ``{"mean": [...], "std": [...], "channels": "RGB"}``.

    Raises:
        UserError: the value has another form.
    """
    if not isinstance(value, Mapping) or not all(
        isinstance(value.get(key), (list, tuple)) for key in ("mean", "std")
    ):
        raise UserError(f"the normalization is {value!r}; expected mean and std, 3 numbers each")
    return Normalization(tuple(value["mean"]), tuple(value["std"]), value.get("channels", "RGB"))


@dataclass(frozen=True)
class Provenance:
    """The provenance of the weights of a backbone, stored in every record.

    Attributes:
        source: path as given, or ``random``.
        family: checkpoint layout in FORMATS, or ``random``.
        encoder: which network in the file was loaded.
        spec: architecture, input and stride, which all protocols and conversions apply.
        sha256: digest of the file; of the initial weights for a random network.
        tensors: number of tensors loaded.
        details: method, epoch and step, if the file contains them.
        notes: facts about the weights that matter for interpreting a score.
        warnings: signs that the network is not trained.
    """

    source: str
    family: str
    encoder: str
    spec: BackboneSpec
    sha256: str
    tensors: int
    details: dict[str, Any]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def arch(self) -> str:
        """Name in ARCHITECTURES or VITS, or ``timm/NAME``."""
        return self.spec.arch

    @property
    def image_size(self) -> int:
        """Size in pixels of the images used in pre-training; 0 if unknown."""
        return self.spec.image_size

    @property
    def interpolation(self) -> Interpolation | None:
        """How images are resized by default."""
        return self.spec.interpolation

    @property
    def normalization(self) -> Normalization:
        """Input normalization."""
        return self.spec.normalization

    @property
    def stride(self) -> Literal["3x3", "1x1"]:
        """The convolution of a bottleneck with stride 2."""
        return self.spec.stride

    def as_dict(self) -> dict[str, Any]:
        """The entries of a record, in the order of version 0.1.0, including those of the spec."""
        spec = self.spec.as_dict()
        return {
            "source": self.source,
            "family": self.family,
            "encoder": self.encoder,
            "arch": spec.pop("arch"),
            "sha256": self.sha256,
            "tensors": self.tensors,
            **spec,
            "details": self.details,
            "notes": self.notes,
            "warnings": self.warnings,
        }
