"""The MMSegmentation engine, and the only module that imports MMSegmentation, mmcv and mmengine.

They are optional; ``segmenter_engine.choose`` imports this module if they are installed. Here are
MMSegmentation's networks, adapted to our training and inference; the reader that checks converted files; and
what the configs of ``mmseg_config`` need that the library lacks.
"""

import warnings
from pathlib import Path
from typing import Any

import mmcv.transforms
import mmseg.datasets
import mmseg.models
import numpy as np
import torch
from mmseg.registry import DATASETS, MODELS, TRANSFORMS
from torch import Tensor, nn

from msbreg.backbones.spec import BackboneSpec
from msbreg.checkpoints.convert.target import STAGES, Features, Reading, Settings
from msbreg.checkpoints.load import load_exactly
from msbreg.data.segmentation.map_sources import open_label_maps
from transfer.segmenters.crops import resize_image, resize_labels, scaled_size
from transfer.segmenters.fcn import Segmenter, build_fcn
from transfer.segmenters.mmseg_config import network_config
from transfer.segmenters.segmentation_config import NetworkOptions


def version() -> str:
    """Version of MMSegmentation, such as ``1.4.2``."""
    return mmseg.__version__


# ---- Networks


class EncoderDecoderSegmenter(Segmenter):
    """MMSegmentation's EncoderDecoder with the interface of our networks, and the names of both."""

    def __init__(self, theirs: Any, options: NetworkOptions) -> None:
        super().__init__()
        self.options = options
        self.backbone, self.decode_head = theirs.backbone, theirs.decode_head
        self.auxiliary_head = theirs.auxiliary_head if theirs.with_auxiliary_head else None
        if options.freeze == "backbone":
            self.backbone.requires_grad_(False)

    def logits(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)
        found = {"decode": self.decode_head(features)}
        if self.auxiliary_head is not None and self.training:
            found["auxiliary"] = self.auxiliary_head(features)
        return found


def build(spec: BackboneSpec, classes: int, options: NetworkOptions) -> EncoderDecoderSegmenter:
    """MMSegmentation's network on the CPU, with the initial weights that ours has from the same seed.

    Raises:
        UserError: MMSegmentation has no such network.
    """
    settings = network_config(spec, classes, options)
    own = build_fcn(spec, classes, options)
    with torch.random.fork_rng(devices=[]):  # its initial weights are replaced
        network = EncoderDecoderSegmenter(build_model(settings), options)
    load_exactly(network, own.state_dict(), "the initial weights")
    return network


def build_model(settings: Settings) -> nn.Module:
    """Build a module of MMSegmentation, without its advice about losses and binary segmentation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model: nn.Module = MODELS.build(settings)
    return model


@MODELS.register_module()
class SmallStemResNet(mmseg.models.ResNet):
    """A ResNet for small images: a 3x3 convolution and no max-pool.

    Args:
        small_stem: ``small`` (stride 2) or ``cifar`` (stride 1).
    """

    def __init__(self, small_stem: str, **options: Any) -> None:
        self.small_stem = small_stem
        super().__init__(**options)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        stride = {"small": 2, "cifar": 1}[self.small_stem]
        self.conv1 = nn.Conv2d(in_channels, stem_channels, 3, stride, padding=1, bias=False)
        self.maxpool = nn.Identity()


# ---- Converted files


PREFIX = "backbone."


def read(path: Path, settings: Settings, images: Tensor) -> list[Reading]:
    """Read a converted file into MMSegmentation's ResNet, as its configs do."""
    start = {"type": "Pretrained", "checkpoint": str(path), "prefix": PREFIX}
    backbone: Any = build_model({**settings["backbone"], "init_cfg": start})
    backbone.init_weights()  # only warns about tensors that do not match: the certificate compares all
    backbone.eval()
    loaded = {PREFIX + name: value.clone() for name, value in backbone.state_dict().items()}
    pixels = settings["data_preprocessor"]

    @torch.no_grad()
    def features(dtype: torch.dtype) -> Features:
        """Features of images that are preprocessed as in ``SegDataPreProcessor``, from BGR images on."""
        mean, std = (
            torch.tensor(pixels[name], dtype=dtype).view(3, 1, 1) for name in ("mean", "std")
        )
        bgr = images.flip(1)
        ordered = bgr.flip(1) if pixels["bgr_to_rgb"] else bgr
        backbone.to(dtype)
        x = (ordered.to(dtype) - mean) / std
        stem = backbone.maxpool(backbone.relu(backbone.norm1(backbone.conv1(x))))
        return dict(zip(STAGES, (stem, *backbone(x)), strict=True))

    return [Reading(f"mmsegmentation {version()}", loaded, features)]


# ---- Data of written configs


@DATASETS.register_module()
class LabelMapDataset(mmseg.datasets.BaseSegDataset):
    """One split of a source of label maps, for MMSegmentation's loaders.

    Args:
        data, split: as in the card.
    """

    def __init__(self, data: str, split: str, **options: Any) -> None:
        self.source = open_label_maps(data, split)
        super().__init__(metainfo={"classes": self.source.classes}, **options)

    def load_data_list(self) -> list[dict[str, Any]]:
        return [
            {
                "index": i,
                "img_path": self.source.name(i),
                "seg_map_path": self.source.map_name(i),
                "label_map": None,
                "reduce_zero_label": False,
                "seg_fields": [],
            }
            for i in range(len(self.source))
        ]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        info: dict[str, Any] = super().get_data_info(idx)
        return info | {"source": self.source}


@TRANSFORMS.register_module()
class LoadSourceImage(mmcv.transforms.BaseTransform):
    """Decode an image of a LabelMapDataset, as BGR."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        image = np.ascontiguousarray(results["source"].image(results["index"])[..., ::-1])
        shape = image.shape[:2]
        return results | {"img": image, "img_shape": shape, "ori_shape": shape}


@TRANSFORMS.register_module()
class LoadSourceLabels(mmcv.transforms.BaseTransform):
    """Read a label map of a LabelMapDataset, with values translated to labels."""

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        labels = results["source"].label(results["index"])
        return results | {
            "gt_seg_map": labels,
            "seg_fields": [*results["seg_fields"], "gt_seg_map"],
        }


@TRANSFORMS.register_module()
class RandomScale(mmcv.transforms.BaseTransform):
    """Resize an image and its labels to a random multiple of its own size.

    mmcv's RandomResize needs a fixed size to multiply.

    Args:
        ratio_range: smallest and largest factor.
    """

    def __init__(self, ratio_range: tuple[float, float]) -> None:
        self.ratio_range = ratio_range

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        low, high = self.ratio_range
        factor = np.random.random_sample() * (high - low) + low  # noqa: NPY002, mmseg seeds this one
        size = scaled_size(results["img"].shape, factor, None)
        results["img"], results["img_shape"] = resize_image(results["img"], size), size
        for name in results["seg_fields"]:
            results[name] = resize_labels(results[name], size)
        return results
