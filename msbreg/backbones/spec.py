"""What the tensors of a backbone do not show, and where they come from.

Two networks with equal tensors and different specs give different features. The untrained twin, the
evaluation transform, conversion and the report all take the spec of the checkpoint that they are
compared with. Nothing heavy is imported, so that options are checked before PyTorch loads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from msbreg.backbones.architectures import Architecture, architecture
from msbreg.run.errors import UserError


@dataclass(frozen=True)
class Normalization:
    """The input a network was trained on: (pixels / 255 - mean) / std, channel by channel.

    Attributes:
        mean: of pixels in [0, 1], in the order of ``channels``.
        std: likewise.
        channels: the order in which the network takes them. Images are RGB everywhere in this suite.

    Raises:
        UserError: the numbers are not three means in [-1, 2] and three deviations in (0, 2].

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
                f"normalization of {self.channels} by mean {self.mean} and std {self.std}; expected RGB "
                "or BGR, and three numbers each for pixels in [0, 1]: means in [-1, 2], stds in (0, 2]"
            )

    @property
    def pixel_mean(self) -> tuple[float, ...]:
        """Mean in gray levels, [0, 255], to 15 digits: 123.675 rather than 123.67499999999998."""
        return tuple(float(f"{255 * value:.15g}") for value in self.mean)

    @property
    def pixel_std(self) -> tuple[float, ...]:
        """Standard deviation in gray levels, to 15 digits."""
        return tuple(float(f"{255 * value:.15g}") for value in self.std)


def of_gray_levels(mean: Sequence[float], std: Sequence[float], channels: str) -> Normalization:
    """The normalization (pixels - mean) / std of pixels in [0, 255], such as Detectron2's.

    Raises:
        UserError: these are not numbers for pixels in [0, 255].
    """
    scaled_mean, scaled_std = (tuple(value / 255 for value in values) for values in (mean, std))
    return Normalization(scaled_mean, scaled_std, channels)  # type: ignore[arg-type]


# The statistics of ImageNet's training images (torchvision, MoCo, BYOL, ...), stated here and nowhere
# else; our own pre-training uses them for every data set.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class BackboneSpec:
    """Everything about a backbone that its tensors do not show.

    Attributes:
        arch: name in ARCHITECTURES.
        normalization: of the input, channel order included.
        stride_in_1x1: bottlenecks have stride 2 in their first 1x1 convolution (Caffe's and MSRA's v1),
            not in their 3x3 (torchvision's v1.5). Always False for basic blocks, which have no 1x1.
        image_size: side in pixels of the views it was pre-trained on; 0 if the file does not say.

    Raises:
        UserError: no architecture has that name.

    >>> spec = BackboneSpec("resnet50", stride_in_1x1=True, image_size=224)
    >>> spec.stride, spec.architecture.channels["c5"]
    ('1x1', 2048)
    """

    arch: str
    normalization: Normalization = IMAGENET
    stride_in_1x1: bool = False
    image_size: int = 0

    def __post_init__(self) -> None:
        if not self.architecture.bottleneck:
            object.__setattr__(self, "stride_in_1x1", False)

    @property
    def architecture(self) -> Architecture:
        """Depth, width and stem."""
        return architecture(self.arch)

    @property
    def stride(self) -> Literal["3x3", "1x1"]:
        """Which convolution of a bottleneck has stride 2, as records write it."""
        return "1x1" if self.stride_in_1x1 else "3x3"

    def as_dict(self) -> dict[str, Any]:
        """The flat keys of records and published files: arch, image_size, normalization, stride."""
        return {
            "arch": self.arch,
            "image_size": self.image_size,
            "normalization": asdict(self.normalization),
            "stride": self.stride,
        }


def spec_of_record(
    network: Mapping[str, Any],  # the entry `network` of a record, or what a published file says
) -> BackboneSpec:
    """The inverse of ``BackboneSpec.as_dict``; other keys are ignored.

    Version 0.1.0 wrote ``normalisation``. What is absent takes its default.

    Raises:
        UserError: a value is malformed; the message names the key.
    """
    arch, stride = network.get("arch"), network.get("stride", "3x3")
    size = network.get("image_size", 0)
    if not isinstance(arch, str):
        raise UserError(f"arch is {arch!r}; expected the name of an architecture")
    if stride not in ("3x3", "1x1"):
        raise UserError(f"stride is {stride!r}; expected 3x3 or 1x1")
    if not isinstance(size, int) or size < 0:
        raise UserError(f"image_size is {size!r}; expected pixels")
    said = network.get("normalization", network.get("normalisation"))
    normalization = IMAGENET if said is None else normalization_of(said)
    return BackboneSpec(arch, normalization, stride == "1x1", size)


def normalization_of(said: Any) -> Normalization:
    """A normalization from ``{"mean": [...], "std": [...], "channels": "RGB"}``.

    Raises:
        UserError: it is not that.
    """
    if not isinstance(said, Mapping) or not all(
        isinstance(said.get(key), (list, tuple)) for key in ("mean", "std")
    ):
        raise UserError(f"the normalization is {said!r}; expected mean and std, 3 numbers each")
    return Normalization(tuple(said["mean"]), tuple(said["std"]), said.get("channels", "RGB"))


@dataclass(frozen=True)
class Provenance:
    """Where a backbone's weights come from; goes into every record.

    Attributes:
        source: path as given, or ``random``.
        family: row of FORMATS, or ``random``.
        encoder: which of the file's networks was taken.
        spec: architecture, input and stride; every protocol and conversion applies it.
        sha256: of the file; of the initial weights for a random network.
        tensors: number of tensors taken.
        details: method, epoch and step, where the file says them.
        notes: what a reader of a score should know of these weights.
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
        """Name in ARCHITECTURES."""
        return self.spec.arch

    @property
    def image_size(self) -> int:
        """Side in pixels of the views it was pre-trained on; 0 if unknown."""
        return self.spec.image_size

    @property
    def normalization(self) -> Normalization:
        """Of the input."""
        return self.spec.normalization

    @property
    def stride(self) -> Literal["3x3", "1x1"]:
        """Which convolution of a bottleneck has stride 2."""
        return self.spec.stride

    def as_dict(self) -> dict[str, Any]:
        """For a record, flat: the spec's keys between the others, in the order of version 0.1.0."""
        said = self.spec.as_dict()
        return {
            "source": self.source,
            "family": self.family,
            "encoder": self.encoder,
            "arch": said.pop("arch"),
            "sha256": self.sha256,
            "tensors": self.tensors,
            **said,
            "details": self.details,
            "notes": self.notes,
            "warnings": self.warnings,
        }
