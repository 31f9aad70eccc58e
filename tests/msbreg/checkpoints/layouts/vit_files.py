"""A file of every family of vision transformers, with the structure that its repository writes.

``FILES[name]`` is the row, the toy architecture, and a function of two of timm's models: the network that the
family evaluates, and the other one. Names and cuts are spelled out here, independent of the code under test.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.msbreg.backbones.toy_transformers import DINOV2, HEADS, PLAIN, REGISTERS
from tests.msbreg.checkpoints.layouts.families import State, linear, mlp, training, under

MASK = {"mask_token": torch.zeros(1, 32)}


def body(model: nn.Module) -> State:
    """The state of a timm model without its classifier."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}


def dino_full(m: nn.Module, other: nn.Module) -> Any:
    return {
        "student": under("module.backbone.", body(other)) | mlp("module.head.mlp."),
        "teacher": under("backbone.", body(m)) | mlp("head.mlp."),
        "optimizer": {},
        "epoch": 800,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": torch.zeros(1, 3)},
    }


def dinov2_registers(m: nn.Module, other: nn.Module) -> Any:
    """The class token and its position are stored apart; timm's model has their sum."""
    state = body(m)
    half = state["cls_token"] / 2  # two halves are added exactly
    state["register_tokens"] = state.pop("reg_token")
    state["cls_token"] = half
    state["pos_embed"] = torch.cat([half, state["pos_embed"]], dim=1)
    return state | MASK


def mae_full(m: nn.Module, other: nn.Module) -> Any:
    decoder = under("decoder_", linear("embed.") | linear("pred.")) | {
        "decoder_pos_embed": torch.ones(1, 17, 8),
        "decoder_norm.weight": torch.ones(8),
        "decoder_norm.bias": torch.ones(8),
    }
    for index in range(8):
        decoder |= linear(f"decoder_blocks.{index}.attn.qkv.")
        decoder |= linear(f"decoder_blocks.{index}.mlp.fc1.")
    state = body(m) | decoder | {"mask_token": torch.zeros(1, 1, 8)}
    return {"model": state, "optimizer": {}, "epoch": 799, "scaler": {}}


def moco(m: nn.Module, other: nn.Module) -> Any:
    state = under("module.base_encoder.", body(m) | mlp("head."))
    state |= under("module.momentum_encoder.", body(other) | mlp("head."))
    return training(state | under("module.predictor.", mlp("")), arch="vit_small", scaler={})


def timm_training(m: nn.Module, other: nn.Module) -> Any:
    args = argparse.Namespace(model="vit")
    return training(m.state_dict(), args=args, state_dict_ema=other.state_dict())


def huggingface_vit(m: nn.Module, prefix: str = "") -> State:
    """transformers models/vit/modeling_vit.py."""
    s = m.state_dict()
    made: State = {
        "embeddings.cls_token": s["cls_token"],
        "embeddings.position_embeddings": s["pos_embed"],
    }

    def copy(ours: str, theirs: str) -> None:
        made[f"{theirs}.weight"], made[f"{theirs}.bias"] = s[f"{ours}.weight"], s[f"{ours}.bias"]

    copy("patch_embed.proj", "embeddings.patch_embeddings.projection")
    copy("norm", "layernorm")
    for i in range(2):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        made |= attention(s, i)
        copy(f"{ours}.norm1", f"{theirs}.layernorm_before")
        copy(f"{ours}.norm2", f"{theirs}.layernorm_after")
        copy(f"{ours}.attn.proj", f"{theirs}.attention.output.dense")
        copy(f"{ours}.mlp.fc1", f"{theirs}.intermediate.dense")
        copy(f"{ours}.mlp.fc2", f"{theirs}.output.dense")
    return under(prefix, made)


def attention(s: State, block: int) -> State:
    made = {}
    for tensor in ("weight", "bias"):
        three = s[f"blocks.{block}.attn.qkv.{tensor}"].split(32)
        for name, value in zip(("query", "key", "value"), three, strict=True):
            made[f"encoder.layer.{block}.attention.attention.{name}.{tensor}"] = value.clone()
    return made


def huggingface_dinov2(m: nn.Module, prefix: str = "") -> State:
    """transformers models/dinov2 and models/dinov2_with_registers."""
    s = dinov2_registers(m, m) if "reg_token" in m.state_dict() else body(m)
    made: State = {"embeddings.mask_token": torch.zeros(1, 32)}
    for name, value in s.items():
        parts = name.split(".")
        if name == "mask_token" or ".qkv." in name:
            continue
        if name in ("cls_token", "register_tokens"):
            made[f"embeddings.{name}"] = value
        elif name == "pos_embed":
            made["embeddings.position_embeddings"] = value
        elif parts[0] == "patch_embed":
            made[f"embeddings.patch_embeddings.projection.{parts[-1]}"] = value
        elif parts[0] == "norm":
            made[f"layernorm.{parts[-1]}"] = value
        elif parts[2] == "attn":
            made[f"encoder.layer.{parts[1]}.attention.output.dense.{parts[-1]}"] = value
        elif parts[2].startswith("ls"):
            made[f"encoder.layer.{parts[1]}.layer_scale{parts[2][-1]}.lambda1"] = value
        else:  # norm1, norm2, mlp.fc1, mlp.fc2
            made[f"encoder.layer.{'.'.join(parts[1:])}"] = value
    for block in range(2):
        made |= attention(m.state_dict(), block)
    return under(prefix, made)


def classifier(state: State) -> State:
    return state | linear("classifier.")


File = Callable[[nn.Module, nn.Module], Any]
FILES: dict[str, tuple[str, str, File]] = {
    "timm": ("vit", PLAIN, lambda m, o: m.state_dict()),
    "DINO published": ("vit", PLAIN, lambda m, o: body(m)),
    "timm DINOv2": ("vit", DINOV2, lambda m, o: body(m)),
    "timm DINOv2 registers": ("vit", REGISTERS, lambda m, o: body(m)),
    "DINO full": ("dino-vit", PLAIN, dino_full),
    "DINOv2": ("dinov2", DINOV2, lambda m, o: body(m) | MASK),
    "DINOv2 registers": ("dinov2-registers", REGISTERS, dinov2_registers),
    "MAE published": ("mae", PLAIN, lambda m, o: {"model": body(m)}),
    "MAE full": ("mae", PLAIN, mae_full),
    "DeiT": ("deit", PLAIN, lambda m, o: {"model": m.state_dict()}),
    "MoCo v3": ("moco-v3-vit", HEADS, moco),
    "timm training": ("timm-training-vit", PLAIN, timm_training),
    "Hugging Face ViT": (
        "huggingface-vit",
        PLAIN,
        lambda m, o: classifier(huggingface_vit(m, "vit.")),
    ),
    "Hugging Face MAE": (
        "huggingface-vit",
        PLAIN,
        lambda m, o: (
            huggingface_vit(m, "vit.")
            | linear("decoder.decoder_embed.")
            | {"decoder.mask_token": torch.zeros(1, 1, 8)}
        ),
    ),
    "Hugging Face ViT base": (
        "huggingface-vit-base",
        PLAIN,
        lambda m, o: huggingface_vit(m) | linear("pooler.dense."),
    ),
    "Hugging Face DINOv2": (
        "huggingface-dinov2",
        DINOV2,
        lambda m, o: classifier(huggingface_dinov2(m, "dinov2.")),
    ),
    "Hugging Face DINOv2 base": (
        "huggingface-dinov2-base",
        DINOV2,
        lambda m, o: huggingface_dinov2(m),
    ),
    "Hugging Face registers": (
        "huggingface-dinov2-registers",
        REGISTERS,
        lambda m, o: classifier(huggingface_dinov2(m, "dinov2_with_registers.")),
    ),
    "Hugging Face registers base": (
        "huggingface-dinov2-registers-base",
        REGISTERS,
        lambda m, o: huggingface_dinov2(m),
    ),
}


def state_in(content: Any, row: str) -> dict[str, Tensor]:
    """The state dict of the default encoder inside the content of a file."""
    places = {"dino-vit": "teacher", "mae": "model", "deit": "model"}
    place = places.get(row, "state_dict" if "state_dict" in content else "")
    return content[place] if place else content
