"""Hugging Face transformers: a folder with the tensors, config and image processor of ResNetModel."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msbreg.backbones.architectures import BLOCKS, Architecture, name_of
from msbreg.backbones.spec import BackboneSpec, Normalization
from msbreg.checkpoints.convert.target import (
    STAGES,
    Content,
    Features,
    Layout,
    Reading,
    Settings,
    Target,
    as_json,
    as_safetensors,
    no_small_stem,
    prepared,
)
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


def _refusal(spec: BackboneSpec) -> str:
    if spec.normalization.channels == "BGR":
        return "it takes BGR images, and transformers' image processor has no option for that"
    if spec.architecture.inner != 1:
        return "transformers' bottlenecks are always a quarter as wide inside as outside"
    return no_small_stem(spec)


def _express(spec: BackboneSpec) -> Settings:
    a = spec.architecture
    return {
        CONFIG: {
            "architectures": ["ResNetModel"],
            "model_type": "resnet",
            "num_channels": 3,
            "embedding_size": a.width,
            "hidden_sizes": list(a.channels.values()),
            "depths": list(a.blocks),
            "layer_type": "bottleneck" if a.bottleneck else "basic",
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": spec.stride_in_1x1,
        },
        PROCESSOR: {
            "image_processor_type": "ConvNextImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": spec.image_size or 224},
            "crop_pct": 0.875,
            "resample": 2,  # bilinear
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(spec.normalization.mean),
            "image_std": list(spec.normalization.std),
        },
    }


def _understand(settings: Settings) -> BackboneSpec:
    config, processor = settings[CONFIG], settings[PROCESSOR]
    bottleneck = config["layer_type"] == "bottleneck"
    blocks = tuple(config["depths"])
    depth = next((d for d, b in BLOCKS.items() if b == blocks and (d >= 50) == bottleneck), 0)
    return BackboneSpec(
        name_of(Architecture(depth, config["embedding_size"])),
        Normalization(tuple(processor["image_mean"]), tuple(processor["image_std"])),
        config["downsample_in_bottleneck"],
        processor["size"]["shortest_edge"],
    )


def _encode(content: Content, suffix: str) -> dict[str, bytes]:
    files = {
        WEIGHTS: as_safetensors(content.state, {}),
        CONFIG: as_json(content.settings[CONFIG]),
        PROCESSOR: as_json(content.settings[PROCESSOR]),
        "provenance.json": as_json(content.provenance),
    }
    if content.certificate is not None:
        files["certificate.json"] = as_json(content.certificate)
    return files


def _decode(path: Path) -> tuple[dict[str, Tensor], Settings | None]:
    settings = {name: json.loads((path / name).read_text()) for name in (CONFIG, PROCESSOR)}
    return read_file(path / WEIGHTS).content, settings


def _fragment(settings: Settings, path: Path) -> str:
    return (
        "from transformers import AutoImageProcessor, AutoModel\n"
        f"model = AutoModel.from_pretrained({str(path.resolve())!r})\n"
        f"processor = AutoImageProcessor.from_pretrained({str(path.resolve())!r})\n"
    )


def read_with_transformers(path: Path, settings: Settings, images: Tensor) -> list[Reading]:
    """Read with the library's network and image processor; no reading if it is not installed.

    The processor computes in float32, so its pixels are compared with ours and the network runs on
    ours.
    """
    if importlib.util.find_spec("transformers") is None:
        return []
    import transformers

    transformers.utils.logging.disable_progress_bar()
    network, report = transformers.ResNetModel.from_pretrained(path, output_loading_info=True)
    network.eval()
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    theirs = processor(list(images), do_resize=False, return_tensors="pt")["pixel_values"]
    ours = prepared(images, _understand(settings).normalization)
    problems = [f"{kind}: {names}" for kind, names in _plain(report).items() if names]
    if not torch.allclose(theirs, ours, rtol=1e-5, atol=1e-5):
        problems.append(f"the image processor's pixels differ by {(theirs - ours).abs().max():.1e}")

    @torch.no_grad()
    def features(dtype: torch.dtype) -> Features:
        pixels = prepared(images, _understand(settings).normalization, dtype)
        states = network.to(dtype)(pixels, output_hidden_states=True).hidden_states
        return dict(zip(STAGES, states, strict=True))

    name = f"transformers {transformers.__version__}"
    return [Reading(name, dict(network.state_dict()), features, tuple(problems))]


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
