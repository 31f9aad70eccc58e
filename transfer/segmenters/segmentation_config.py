"""Settings of segmentation, trained or by nearest patches. Imports no PyTorch: see msbreg/run/options.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from msbreg.run.errors import UserError
from transfer.frozen.frozen_config import SplitConfig

EngineName = Literal["auto", "torchvision", "mmseg"]
Size = tuple[int, int]


@dataclass(frozen=True)
class NetworkOptions:
    """The segmentation network on top of the backbone."""

    output_stride: Literal[4, 8, 16, 32] = 16
    """Stride of c5. Stages without their stride are dilated instead: conv5 by 2 for 16 (MoCo), conv4 by 2 and
    conv5 by 4 for 8 (FCN-D8)."""
    contract_dilation: bool = False
    """The first block of a dilated stage has half its dilation (MMSegmentation)."""
    head: Literal["fcn", "linear"] = "fcn"
    """fcn: 3x3 convolutions and a classifier. linear: BatchNorm and a 1x1 classifier (DINOv2)."""
    channels: int = 256
    """fcn: channels of the convolutions."""
    convolutions: int = 2
    """fcn: number of 3x3 convolutions."""
    dilation: int = 6
    """fcn: dilation of the convolutions."""
    concatenate: bool = False
    """fcn: one more 3x3 convolution on c5 and the output of the others (MMSegmentation)."""
    dropout: float = 0.0
    """fcn: probability of dropping a channel before the classifiers."""
    auxiliary: float = 0.0
    """Weight of the loss of a second head, with one convolution of 256 channels on c4; 0 is none."""
    align_corners: bool = False
    """How logits are resized: True aligns the centers of the corner pixels (MMSegmentation's 769 configs)."""
    freeze: Literal["nothing", "statistics", "backbone"] = "nothing"
    """statistics: BatchNorm layers use their stored statistics. backbone: only the head is trained."""


@dataclass(frozen=True)
class AugmentationOptions:
    """Random changes of the training images, in MMSegmentation's order: scale, crop, flip, colors."""

    crop: Size = (513, 513)
    """Height and width of the crop. Smaller images are padded with the mean, labels with void."""
    scales: tuple[float, float] = (0.5, 2.0)
    """Range of the random scale."""
    base: Size | None = None
    """Longer and shorter side that an image of scale 1 is fitted into (null: its own size)."""
    largest_class: float = 1.0
    """Crops in which a class covers a larger share are drawn again, up to ten times (mmseg: 0.75)."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    photometric: bool = False
    """Change brightness, contrast, saturation and hue at random (SSD, arXiv 1512.02325, 2.2)."""


@dataclass(frozen=True)
class SolverOptions:
    """SGD and its schedule."""

    learning_rates: tuple[float, ...] = (0.003,)
    """The learning rate, or several to choose from on held-out training images."""
    held_out: int = 0
    """Training images held out to choose a learning rate (BYOL: 2,119); then all are trained on."""
    iterations: int = 30_000
    batch_size: int = 16
    """Images per step of all processes."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    head_rate: float = 1.0
    """Factor on the learning rate of the heads."""
    head_weight_decay: float | None = None
    """Weight decay of the heads (null: that of the backbone)."""
    schedule: Literal["step", "poly"] = "step"
    """step: x 0.1 at each of ``drops``. poly: (1 - t) ^ power down to ``final_rate``."""
    drops: tuple[float, ...] = (0.7, 0.9)
    """Fractions of the iterations after which ``step`` lowers the learning rate."""
    power: float = 0.9
    final_rate: float = 0.0
    """Learning rate at the end of ``poly``."""
    loss_over: Literal["labeled", "all"] = "labeled"
    """The loss is a sum over the labeled pixels, divided by their number in the batch, or by that of all
    pixels, with void and padding (MMSegmentation)."""


@dataclass(frozen=True)
class InferenceOptions:
    """How the test images are evaluated; the logits are always resized to the label map."""

    mode: Literal["whole", "center", "slide"] = "whole"
    """whole image; its central crop, outside of which nothing is scored (BYOL); or overlapping windows."""
    crop: Size = (513, 513)
    """Height and width of the central crop or of the windows."""
    stride: Size = (342, 342)
    """slide: distance of the windows."""
    base: Size | None = None
    """Longer and shorter side that images are fitted into before (null: their own size)."""
    scales: tuple[float, ...] = (1.0,)
    """Scales of the image; the probabilities are averaged."""
    flip: bool = False
    """Also average over the mirrored image."""
    ignore_boundary: int = 0
    """Width in pixels of the band around every boundary in the label map that is not scored."""


@dataclass(frozen=True)
class MemoryOptions:
    """transfer/dense_knn.py: what of the training images enters the memory."""

    patches: int | None = 10_240_000
    """Largest number of patches, equally many of each image (null: all patches)."""
    passes: int = 1
    """Passes over the training images: the first takes whole images, the others random crops."""
    area: tuple[float, float] = (0.5, 1.0)
    """Range of a crop's share of the image area."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Range of the aspect ratio of a crop, width / height."""
    flip: float = 0.0
    """Probability of a horizontal flip of a crop."""


@dataclass(frozen=True)
class DepthOptions:
    """transfer/depth.py: the images, the training of the layer, and the pixels to score."""

    size: Size = (240, 320)
    """Height and width that images are resized to (BYOL halves the 480 x 640 of NYU-v2)."""
    crop: Size = (228, 304)
    """Height and width of the central crop to train on (BYOL)."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    farthest: float = 10.0
    """Largest predicted depth in meters."""
    scored: tuple[int, int, int, int] | None = None
    """First row, end row, first column and end column of the pixels to score (null: whole images)."""
    learning_rate: float = 0.01
    iterations: int = 2000
    batch_size: int = 16
    """Images per step of all processes."""
    momentum: float = 0.9
    weight_decay: float = 1e-4
    power: float = 0.9
    """The learning rate falls as (1 - t) ^ power."""


@dataclass(frozen=True)
class Config(SplitConfig):
    """Settings of a segmentation run: trained on one split of DATA, scored on another."""

    script: ClassVar[str] = "transfer/segmentation.py"
    harmless: ClassVar[frozenset[str]] = frozenset({"trials", "save_every"})
    not_protocol: ClassVar[frozenset[str]] = SplitConfig.not_protocol | {
        "channels_last",
        "evaluate_every",
        "eval_only",
    }
    fewest_workers: ClassVar[int] = 0

    data: str | None = None
    """digits, a folder with label maps, or LAYOUT:FOLDER (voc, cityscapes, ade20k, folders, coco; null: the
    embedded digits)."""
    val_split: str = "val"
    """Split to score."""
    output: Path = Path("runs/segmentation")
    """Folder for record.json, curve.jsonl, the checkpoint, predictions, tables and drawings."""
    workers: int = 2
    """Processes that decode images; 0 decodes in the training process."""
    trials: int = 1
    """Number of runs, with seeds 0 to N - 1 in OUTPUT/trial-0, ...; OUTPUT/trials.json has their mean and
    spread."""
    engine: EngineName = "auto"
    """auto, torchvision (this suite's own network) or mmseg; auto is mmseg if it is installed."""
    network: NetworkOptions = field(default_factory=NetworkOptions)
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    solver: SolverOptions = field(default_factory=SolverOptions)
    inference: InferenceOptions = field(default_factory=InferenceOptions)
    amp: Literal["no", "bf16"] = "no"
    """bf16: train under bfloat16 autocast; the evaluation stays in float32."""
    accumulate: int = 1
    """Split each batch into N parts and accumulate their gradients: less memory, and the same step except for
    BatchNorm."""
    channels_last: bool = False
    """Use the channels-last memory format; often faster."""
    eval_only: bool = False
    """Evaluate the trained network in CHECKPOINT, the checkpoint.pth of another run, without training."""
    evaluate_every: int = 0
    """Iterations between evaluations (0: only at the end)."""
    save_every: int = 1000
    """Iterations between checkpoints."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trials > 1 and self.seed != 0:
            raise UserError("--trials uses the seeds 0, 1, ...; omit --seed")
        if self.eval_only and self.trials > 1:
            raise UserError("--eval-only evaluates one trained network; omit --trials")
        if self.eval_only and self.checkpoint == "random":
            raise UserError(
                "--eval-only needs a trained network; give the checkpoint.pth of a segmentation run as "
                "--checkpoint"
            )
        rates = self.solver.learning_rates
        if (len(rates) > 1) != (self.solver.held_out > 0) or self.solver.held_out < 0:
            raise UserError(
                f"learning_rates is {list(rates)} and held_out {self.solver.held_out}; expected one rate, or "
                "several and a number of held-out training images to choose from them"
            )
        for name, valid, value, expected in _limits(self):
            if not valid:
                raise UserError(f"{name} is {value}; expected {expected}")

    def check_data(self, data: str) -> None:
        from msbreg.data.segmentation.map_sources import MAP_SOURCES  # imports OpenCV
        from msbreg.data.sources import check_source

        check_source(data, MAP_SOURCES)


def _limits(c: Config) -> list[tuple[str, bool, object, str]]:
    """(setting, whether it is valid, its value, what is expected)."""
    n, a, s, i = c.network, c.augmentation, c.solver, c.inference
    at_least_1 = "at least 1"
    low, high = a.scales
    sizes = {"augmentation.crop": a.crop, "inference.crop": i.crop, "inference.stride": i.stride}
    sizes |= {
        name: size
        for name, size in (("augmentation.base", a.base), ("inference.base", i.base))
        if size is not None
    }
    counts = {
        "trials": c.trials,
        "accumulate": c.accumulate,
        "solver.iterations": s.iterations,
        "solver.batch_size": s.batch_size,
        "network.channels": n.channels,
        "network.dilation": n.dilation,
    }
    rest = {"save_every": c.save_every, "evaluate_every": c.evaluate_every}
    rest |= {"network.convolutions": n.convolutions, "inference.ignore_boundary": i.ignore_boundary}
    return [
        *((name, value >= 1, value, at_least_1) for name, value in counts.items()),
        *((name, value >= 0, value, "0 or more") for name, value in rest.items()),
        *(
            (name, min(size) >= 1, list(size), "two sides of at least 1")
            for name, size in sizes.items()
        ),
        ("augmentation.scales", 0 < low <= high, [low, high], "two ascending numbers above 0"),
        ("augmentation.flip", 0 <= a.flip <= 1, a.flip, "a probability"),
        (
            "augmentation.largest_class",
            0 < a.largest_class <= 1,
            a.largest_class,
            "a share above 0",
        ),
        ("network.dropout", 0 <= n.dropout < 1, n.dropout, "a probability below 1"),
        ("network.auxiliary", n.auxiliary >= 0, n.auxiliary, "0 or more"),
        (
            "solver.learning_rates",
            bool(s.learning_rates) and min(s.learning_rates) > 0,
            list(s.learning_rates),
            "numbers above 0",
        ),
        (
            "solver.drops",
            all(0 < d < 1 for d in s.drops),
            list(s.drops),
            "fractions between 0 and 1",
        ),
        (
            "inference.scales",
            bool(i.scales) and min(i.scales) > 0,
            list(i.scales),
            "numbers above 0",
        ),
    ]
