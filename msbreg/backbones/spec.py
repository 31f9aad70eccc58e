"""What the tensors of a backbone do not show: its architecture's name, its input, its conventions.

Two networks with equal tensors and different specs give different features. The untrained twin, the
evaluation transform, conversion and the report all take the spec of the checkpoint that they are
compared with. This module imports nothing heavy, so that options can be checked before PyTorch loads.
"""

from dataclasses import dataclass
from typing import Literal

from msbreg.run.errors import UserError

# The names in BACKBONES, for checks of options.
ARCHITECTURES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet18-cifar",
    "resnet18-small",
    "resnet18-narrow",
    "resnet18-tiny",
)


@dataclass(frozen=True)
class Normalization:
    """The input a network was trained on: (pixels / 255 - mean) / std, channel by channel.

    Attributes:
        mean: of pixels in [0, 1], in the order of ``channels``.
        std: likewise.
        channels: the order in which the network takes them. Images are RGB everywhere in this suite.

    Raises:
        UserError: the numbers are not three means in [-1, 2] and three deviations in (0, 2].
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


# The statistics of ImageNet's training images (torchvision, MoCo, BYOL, ...), stated here and nowhere
# else; our own pre-training uses them for every data set.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class BackboneSpec:
    """Everything about a backbone that its tensors do not show.

    Attributes:
        arch: name in BACKBONES.
        normalization: of the input, channel order included.
        stride_in_1x1: bottlenecks have stride 2 in their first 1x1 convolution (Caffe's and MSRA's v1),
            not in their 3x3 (torchvision's v1.5).
        image_size: side in pixels of the views it was pre-trained on; 0 if the file does not say.
        padding: ``symmetric``, or ``same`` as in TensorFlow, where strided convolutions pad the
            bottom and right sides more.
    """

    arch: str
    normalization: Normalization = IMAGENET
    stride_in_1x1: bool = False
    image_size: int = 0
    padding: Literal["symmetric", "same"] = "symmetric"
