"""Hugging Face transformers: a folder with ResNetModel's tensors, its config and its image processor."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msbreg.checkpoints.convert.consumer_settings import BLOCKS, Settings, depth_of
from msbreg.checkpoints.convert.encoding import as_json, as_safetensors
from msbreg.checkpoints.convert.executor import STAGES, Layout
from msbreg.checkpoints.convert.target import Content, Reading, Target, Words, no_small_stem
from msbreg.checkpoints.layouts.names import huggingface
from msbreg.checkpoints.read import read_file

WEIGHTS, CONFIG, PROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"

LAYOUT = Layout(
    stem="embedder.embedder.convolution",
    stem_norm="embedder.embedder.normalization",
    convolution="encoder.stages.{stage}.layers.{block}.layer.{layer}.convolution",
    norm="encoder.stages.{stage}.layers.{block}.layer.{layer}.normalization",
    shortcut="encoder.stages.{stage}.layers.{block}.shortcut.convolution",
    shortcut_norm="encoder.stages.{stage}.layers.{block}.shortcut.normalization",
    first_stage=0,
    first_layer=0,
)


def _refusal(settings: Settings) -> str:
    if settings.channels == "BGR":
        return "it takes BGR images, and transformers' image processor has no word for that"
    return no_small_stem(settings)


def _express(settings: Settings) -> Words:
    expansion = 4 if settings.bottleneck else 1
    side = settings.image_size or 224
    return {
        CONFIG: {
            "architectures": ["ResNetModel"],
            "model_type": "resnet",
            "num_channels": 3,
            "embedding_size": settings.width,
            "hidden_sizes": [settings.width * expansion * 2**stage for stage in range(4)],
            "depths": list(BLOCKS[settings.depth]),
            "layer_type": "bottleneck" if settings.bottleneck else "basic",
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": settings.stride_in_1x1,
        },
        PROCESSOR: {
            "image_processor_type": "ConvNextImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side},
            "crop_pct": 0.875,
            "resample": 2,  # bilinear
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": settings.mean,
            "image_std": settings.std,
        },
    }


def _understand(words: Words) -> Settings:
    config, processor = words[CONFIG], words[PROCESSOR]
    return Settings(
        depth=depth_of(config["depths"], config["layer_type"] == "bottleneck"),
        width=config["embedding_size"],
        stem="imagenet",
        stride_in_1x1=config["downsample_in_bottleneck"],
        channels="RGB",
        pixel_mean=tuple(255 * value for value in processor["image_mean"]),
        pixel_std=tuple(255 * value for value in processor["image_std"]),
    )


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    files = {
        WEIGHTS: as_safetensors(content.state, {}),
        CONFIG: as_json(content.words[CONFIG]),
        PROCESSOR: as_json(content.words[PROCESSOR]),
        "provenance.json": as_json(content.provenance),
    }
    if content.certificate is not None:
        files["certificate.json"] = as_json(content.certificate)
    return files


def _decode(path: Path) -> tuple[dict[str, Tensor], Words | None]:
    words = {name: json.loads((path / name).read_text()) for name in (CONFIG, PROCESSOR)}
    return read_file(path / WEIGHTS).content, words


def _fragment(words: Words, path: Path) -> str:
    return (
        "from transformers import AutoImageProcessor, AutoModel\n"
        f"model = AutoModel.from_pretrained({str(path.resolve())!r})\n"
        f"processor = AutoImageProcessor.from_pretrained({str(path.resolve())!r})\n"
    )


def read_with_transformers(path: Path, words: Words, batches: list[Tensor]) -> list[Reading]:
    """By the library's own network and image processor; nothing where it is not installed."""
    if importlib.util.find_spec("transformers") is None:
        return []
    import transformers

    transformers.utils.logging.disable_progress_bar()
    network, report = transformers.ResNetModel.from_pretrained(path, output_loading_info=True)
    network.eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    features = []
    for images in batches:
        pixels = processor(list(images), do_resize=False, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            states = network(pixels, output_hidden_states=True).hidden_states
        features.append(dict(zip(STAGES, states, strict=True)))
    problems = tuple(f"{kind}: {names}" for kind, names in _plain(report).items() if names)
    name = f"transformers {transformers.__version__}"
    return [Reading(name, dict(network.state_dict()), features, problems)]


def _plain(report: dict[str, Any]) -> dict[str, list[str]]:
    return {kind: sorted(map(str, names)) for kind, names in report.items()}


HUGGINGFACE = Target(
    name="huggingface",
    ending="_hf",
    suffixes=(),
    names=huggingface,
    layout=LAYOUT,
    refusal=_refusal,
    express=_express,
    understand=_understand,
    encode=_encode,
    decode=_decode,
    fragment=_fragment,
    readers=(read_with_transformers,),
)
