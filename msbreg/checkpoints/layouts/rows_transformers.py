"""Layouts of vision transformers, as written by their authors, by timm and by Hugging Face.

LayerScale and the final norm are tensors like all others: a file without them does not load.
"""

from msbreg.checkpoints.layouts import vit_names
from msbreg.checkpoints.layouts.format import Encoder, Format
from msbreg.checkpoints.layouts.rows_libraries import NO_INPUT
from msbreg.checkpoints.layouts.rows_methods import QUERY

PLAIN = ("vit_*",)
DINOV2 = ("*_dinov2",)  # patches of 14 pixels, LayerScale, with or without registers
DINO_TEACHER = "DINO evaluates its teacher (--checkpoint_key is teacher by default)"
TIMM_SOURCE = "huggingface/pytorch-image-models timm/models/vision_transformer.py"


def _bare(name: str, covers: str, source: str, **more: object) -> Format:
    """A state dict with timm's names at the top of the file."""
    return Format(
        name,
        covers=covers,
        source=source,
        encoders=(Encoder("backbone", ""),),
        names=vit_names.timm,
        archs=PLAIN,
        without=("mask_token", "register_tokens", "decoder_*"),
        heads=("head.*",),
        note=NO_INPUT,
        **more,  # type: ignore[arg-type]
    )


def _huggingface(name: str, covers: str, prefix: str, names: vit_names.TransformerNames) -> Format:
    dinov2 = names is vit_names.huggingface_dinov2
    registers = "registers" in name
    return Format(
        f"huggingface-{name}",
        covers=f"Hugging Face {covers}",
        source=f"huggingface/transformers models/{'dinov2' if dinov2 else 'vit'}",
        encoders=(Encoder("backbone", prefix),),
        names=names,
        archs=DINOV2 if dinov2 else PLAIN,
        marks=("*embeddings.register_tokens",) if registers else (),
        without=() if registers or not dinov2 else ("*embeddings.register_tokens",),
        heads=("pooler.*", "embeddings.mask_token"),
        dropped=("classifier.*", "decoder.*") if prefix else (),
        positions="antialiased" if registers else "bicubic",
    )


TRANSFORMERS = (
    _bare(
        "vit",
        "a bare vision transformer: timm (state dict or safetensors), and DINO's published files "
        "(dino_vitbase16_pretrain.pth)",
        f"{TIMM_SOURCE}; facebookresearch/dino vision_transformer.py",
        positions="fixed",
    ),
    _bare(
        "vit-timm",
        "the same, known to be from timm: other image sizes by timm's formula",
        TIMM_SOURCE,
        positions="antialiased",
        on_request=True,
    ),
    _bare(
        "vit-dino",
        "the same, known to be from DINO: other image sizes by DINO's formula",
        "facebookresearch/dino vision_transformer.py",
        positions="offset",
        on_request=True,
    ),
    Format(
        "dino-vit",
        covers="DINO: full training file (vision transformer)",
        source="facebookresearch/dino main_dino.py, utils.py, vision_transformer.py",
        encoders=(
            Encoder("teacher", "backbone.", (("teacher",),)),
            Encoder("student", "backbone.", (("student",),)),
        ),
        why=DINO_TEACHER,
        names=vit_names.timm,
        archs=PLAIN,
        top=("student", "teacher"),
        heads=(),
        dropped=("head.*",),
        positions="offset",
    ),
    Format(
        "dinov2",
        covers="DINOv2 without registers: dinov2_vits14_pretrain.pth",
        source="facebookresearch/dinov2 models/vision_transformer.py, hub/backbones.py",
        encoders=(Encoder("backbone", ""),),
        names=vit_names.timm,
        archs=DINOV2,
        marks=("mask_token",),
        without=("register_tokens", "decoder_*"),
        heads=(),
        dropped=("mask_token",),
        positions="offset",
    ),
    Format(
        "dinov2-registers",
        covers="DINOv2 with registers: dinov2_vits14_reg4_pretrain.pth",
        source="facebookresearch/dinov2 models/vision_transformer.py, hub/backbones.py",
        encoders=(Encoder("backbone", ""),),
        names=vit_names.dinov2_registers,
        archs=DINOV2,
        marks=("register_tokens",),
        heads=(),
        dropped=("mask_token",),
        positions="antialiased",
        note="the class token contains its position embedding, as in timm",
    ),
    Format(
        "mae",
        covers="MAE: published encoders, and training files with their decoder",
        source="facebookresearch/mae models_mae.py, main_pretrain.py, util/pos_embed.py",
        entry=("model",),
        encoders=(Encoder("encoder", ""),),
        names=vit_names.timm,
        # There is no MAE of another size. MoCo v3's conversion to DeiT has the same keys, but other heads.
        archs=("vit_base*", "vit_large*", "vit_huge*"),
        without=("head.*",),
        heads=(),
        dropped=("decoder_*", "mask_token"),
        positions="bicubic",
    ),
    Format(
        "deit",
        covers="DeiT, and MAE fine-tuned with its class token",
        source="facebookresearch/deit main.py; facebookresearch/mae main_finetune.py",
        entry=("model",),
        encoders=(Encoder("network", ""),),
        names=vit_names.timm,
        archs=PLAIN,
        marks=("head.weight",),
        heads=("head.*",),
        positions="bicubic",
    ),
    Format(
        "moco-v3-vit",
        covers="MoCo v3 (vision transformer); ViT-S has 12 heads",
        source="facebookresearch/moco-v3 moco/builder.py, vits.py, main_lincls.py",
        entry=("state_dict",),
        encoders=(Encoder("base", "base_encoder."), Encoder("momentum", "momentum_encoder.")),
        why=QUERY,
        names=vit_names.timm,
        archs=("*_heads12", *PLAIN),
        top_without=("meta",),
        heads=("head.*",),
        dropped=("predictor.*",),
        positions="fixed",
        interpolation="bilinear",
    ),
    Format(
        "timm-training-vit",
        covers="timm's train.py (vision transformer; args is a Namespace: needs --trust-pickle)",
        source="huggingface/pytorch-image-models timm/utils/checkpoint_saver.py",
        entry=("state_dict",),
        encoders=(Encoder("weights", ""), Encoder("average", "", (("state_dict_ema",),))),
        why="`state_dict` is the trained network; the average exists if timm kept one",
        names=vit_names.timm,
        archs=PLAIN,
        top=("arch", "args"),
        heads=("head.*",),
        positions="antialiased",
    ),
    _huggingface(
        "vit", "ViTFor*, and MAE (ViTMAEForPreTraining)", "vit.", vit_names.huggingface_vit
    ),
    _huggingface("vit-base", "ViTModel", "", vit_names.huggingface_vit),
    _huggingface("dinov2", "Dinov2ForImageClassification", "dinov2.", vit_names.huggingface_dinov2),
    _huggingface("dinov2-base", "Dinov2Model", "", vit_names.huggingface_dinov2),
    _huggingface(
        "dinov2-registers",
        "Dinov2WithRegistersForImageClassification",
        "dinov2_with_registers.",
        vit_names.huggingface_dinov2,
    ),
    _huggingface(
        "dinov2-registers-base", "Dinov2WithRegistersModel", "", vit_names.huggingface_dinov2
    ),
)
