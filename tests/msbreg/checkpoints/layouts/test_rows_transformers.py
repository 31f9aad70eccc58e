"""Every family of vision transformers loads to timm's tensors bit for bit, and nothing is lost silently."""

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn

from msbreg.backbones.vit_architectures import VITS, Transformer
from msbreg.checkpoints.layouts import FORMATS, vit_names
from msbreg.checkpoints.layouts.match import Match, identify
from msbreg.checkpoints.layouts.rows_transformers import TRANSFORMERS
from msbreg.checkpoints.layouts.tensors import mismatches, nearest_arch
from msbreg.checkpoints.load import load_backbone
from msbreg.run.errors import UserError
from tests.msbreg.backbones.toy_transformers import (
    DINOV2,
    HEADS,
    PLAIN,
    REGISTERS,
    images,
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.msbreg.checkpoints.layouts.families import linear, under
from tests.msbreg.checkpoints.layouts.test_match import file_with
from tests.msbreg.checkpoints.layouts.vit_files import (
    FILES,
    body,
    dinov2_registers,
    huggingface_vit,
    mae_full,
    moco,
    state_in,
)

pytestmark = pytest.mark.usefixtures("toys")

WITH_LAYER_SCALE = [name for name, (_, arch, _) in FILES.items() if "dinov2" in arch]


def content_of(name: str) -> dict:
    _, arch, build = FILES[name]
    return build(timm_model(arch, seed=0), timm_model(arch, seed=1))


def assert_is(match: Match, model: torch.nn.Module) -> None:
    wanted = body(model)
    assert list(match.state) == list(wanted)
    assert all(torch.equal(match.state[name], wanted[name]) for name in wanted)


def key_like(state: dict, *parts: str) -> str:
    return next(key for key in state if any(part in key for part in parts))


# ---- Every family


@pytest.mark.parametrize("name", FILES)
def test_a_family_loads_to_exactly_timms_tensors(name):
    row, arch, _ = FILES[name]
    match = identify(file_with(content_of(name)))
    assert (match.row.name, match.spec.arch) == (row, arch)
    assert match.spec.image_size == VITS[arch].image_size
    assert_is(match, timm_model(arch, seed=0))


@pytest.mark.parametrize("name", FILES)
def test_every_key_is_loaded_or_dropped_with_a_reason(name):
    row, _, _ = FILES[name]
    content = content_of(name)
    match = identify(file_with(content))
    dropped = {key for keys in match.dropped.values() for key in keys}
    assert match.tensor_count + len(dropped) == len(state_in(content, row))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "parts",
    [
        ("norm1.weight", "layernorm_before.weight"),
        ("qkv.bias", "attention.key.bias"),
        ("cls_token",),
        ("mlp.fc2.bias", "1.output.dense.bias"),
    ],
    ids=str,
)
def test_a_missing_tensor_is_named(name, parts):
    content = content_of(name)
    state = state_in(content, FILES[name][0])
    del state[key_like(state, *parts)]
    with pytest.raises(UserError, match=r"does not match vit(.|\n)*  missing      "):
        identify(file_with(content))


@pytest.mark.parametrize("name", FILES)
def test_the_final_norm_is_never_dropped(name):
    content = content_of(name)
    state = state_in(content, FILES[name][0])
    final = [key for key in state if key.endswith(("layernorm.weight", ".norm.weight"))]
    del state["norm.weight" if "norm.weight" in state else final[0]]
    with pytest.raises(UserError, match=r"missing      norm\.weight \(32,\)"):
        identify(file_with(content))


@pytest.mark.parametrize("name", WITH_LAYER_SCALE)
@pytest.mark.parametrize("every", [False, True], ids=["one", "all"])
def test_missing_layer_scale_is_an_error(name, every):
    content = content_of(name)
    scales = [key for key in content if "ls1" in key or "scale1" in key]
    assert len(scales) == 2
    for key in scales if every else scales[1:]:
        del content[key]
    with pytest.raises(UserError, match=r"missing      blocks\.1\.ls1\.gamma \(32,\)"):
        identify(file_with(content))


def test_no_published_network_becomes_another_one_without_its_layer_scale():
    for arch in (name for name, a in VITS.items() if a.layer_scale and "toy" not in name):
        shapes = VITS[arch].shapes(518)
        state = {k: torch.empty(v, device="meta") for k, v in shapes.items() if ".ls" not in k}
        found = nearest_arch(state, vit_names.timm, ("vit_*",))
        lines = mismatches(state, found, vit_names.timm)
        assert found == arch
        assert sum("missing" in line and ".ls" in line for line in lines) == 2 * VITS[arch].depth


def test_layer_scale_in_a_network_without_it_is_unexplained_or_unexpected():
    content = content_of("MAE published")
    content["model"]["blocks.0.ls1.gamma"] = torch.ones(32)
    with pytest.raises(UserError, match=r"unexpected   blocks\.0\.ls1\.gamma"):
        identify(file_with(content))


@pytest.mark.parametrize("name", FILES)
def test_an_extra_key_is_an_error(name):
    content = content_of(name)
    state_in(content, FILES[name][0])["surprise.weight"] = torch.ones(2)
    with pytest.raises(UserError, match=r"unexplained  surprise\.\*"):
        identify(file_with(content))


@pytest.mark.parametrize("name", FILES)
def test_a_renamed_key_is_reported_twice(name):
    content = content_of(name)
    state = state_in(content, FILES[name][0])
    old = key_like(state, "norm2.bias", "layernorm_after.bias")
    state[old.replace("norm2", "ln2").replace("layernorm_after", "ln2")] = state.pop(old)
    with pytest.raises(UserError) as error:
        identify(file_with(content))
    assert "missing      blocks.0.norm2.bias (32,)" in str(error.value)
    assert "unexplained  " in str(error.value)
    assert "ln2" in str(error.value)


@pytest.mark.parametrize("name", FILES)
def test_a_tensor_with_the_wrong_shape_is_named(name):
    content = content_of(name)
    state = state_in(content, FILES[name][0])
    state[key_like(state, "mlp.fc1.weight", "intermediate.dense.weight")] = torch.ones(3, 4)
    with pytest.raises(
        UserError, match=r"wrong shape  blocks\.0\.mlp\.fc1\.weight \(3, 4\), expec"
    ):
        identify(file_with(content))


def test_every_row_has_a_file_or_its_own_test():
    tested = {row for row, _, _ in FILES.values()}
    assert {row.name for row in TRANSFORMERS} - tested == {"vit-timm", "vit-dino"}
    assert set(TRANSFORMERS) <= set(FORMATS)


# ---- Which network, and which tensors


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("DINO full", "student"), ("MoCo v3", "momentum"), ("timm training", "average")],
)
def test_another_encoder_is_used_on_request(name, encoder):
    match = identify(file_with(content_of(name)), encoder=encoder)
    assert_is(match, timm_model(FILES[name][1], seed=1))


def test_dino_evaluates_its_teacher_and_moco_its_base_encoder():
    assert identify(file_with(content_of("DINO full"))).encoder.name == "teacher"
    assert identify(file_with(content_of("MoCo v3"))).encoder.name == "base"


def test_registers_are_converted_as_by_timm():
    model = timm_model(REGISTERS)
    content = dinov2_registers(model, model)
    content["cls_token"] = torch.randn(1, 1, 32, generator=torch.Generator().manual_seed(5))
    content["pos_embed"] = torch.randn(1, 26, 32, generator=torch.Generator().manual_seed(6))
    match = identify(file_with(content))
    wanted = checkpoint_filter_fn(dict(content), model)
    assert set(match.state) == set(wanted)
    assert all(torch.equal(match.state[name], wanted[name]) for name in wanted)


def test_a_file_of_another_image_size_is_recognized_by_its_positions():
    model = timm_model(PLAIN, image_size=48)
    match = identify(file_with({"model": body(model)}))
    assert match.spec.image_size == 48
    assert_is(match, model)


@pytest.mark.parametrize("name", ["timm", "DINOv2 registers", "Hugging Face DINOv2"])
def test_a_number_of_positions_that_is_no_square_is_an_error(name):
    content = content_of(name)
    key = key_like(content, "pos_embed", "position_embeddings")
    content[key] = torch.ones(1, 24, 32)
    with pytest.raises(UserError, match=r"wrong shape  pos_embed \(1, 24, 32\), expected \(1, "):
        identify(file_with(content))


def test_mae_drops_its_decoder_and_mask_token_by_name():
    match = identify(file_with(content_of("MAE full")))
    dropped = match.dropped["not part of the backbone"]
    assert "mask_token" in dropped
    assert sum(key.startswith("decoder_blocks.") for key in dropped) == 32


def test_a_network_hidden_among_the_heads_is_unexplained():
    model = timm_model(PLAIN)
    content = moco(model, model)
    deep = {
        f"module.predictor.copy.blocks.{i}.attn.{part}.weight": torch.ones(2)
        for i in range(12)
        for part in ("qkv", "proj")
    }
    content["state_dict"] |= deep
    with pytest.raises(UserError, match=r"unexplained  predictor\.\* \(24 keys\)"):
        identify(file_with(content))


def test_moco_small_has_twelve_heads_unless_the_user_says_otherwise():
    content = content_of("MoCo v3")
    assert identify(file_with(content)).spec.arch == HEADS
    assert identify(file_with(content), arch=PLAIN).spec.arch == PLAIN


def test_another_architecture_than_requested_is_an_error():
    with pytest.raises(UserError, match=f"contains a {PLAIN}, but a {DINOV2} was requested"):
        identify(file_with(content_of("timm")), arch=DINOV2)
    with pytest.raises(UserError, match=f"contains a {PLAIN}, but a resnet50 was requested"):
        identify(file_with(content_of("timm")), arch="resnet50")


# ---- The input


@pytest.mark.parametrize(
    ("name", "positions"),
    [
        ("timm", "fixed"),
        ("DINO full", "offset"),
        ("DINOv2", "offset"),
        ("DINOv2 registers", "antialiased"),
        ("MAE published", "bicubic"),
        ("MoCo v3", "fixed"),
        ("Hugging Face DINOv2", "bicubic"),
        ("Hugging Face registers", "antialiased"),
    ],
)
def test_positions_are_adapted_as_by_the_source(name, positions):
    assert identify(file_with(content_of(name))).spec.positions == positions


@pytest.mark.parametrize(("family", "how"), [("vit-timm", "antialiased"), ("vit-dino", "offset")])
def test_the_source_of_a_bare_file_is_only_used_on_request(family, how):
    match = identify(file_with(content_of("timm")), family=family)
    assert (match.row.name, match.spec.positions) == (family, how)


def test_images_are_resized_as_by_the_source():
    assert identify(file_with(content_of("DINO full"))).spec.interpolation == "bicubic"
    assert identify(file_with(content_of("MoCo v3"))).spec.interpolation == "bilinear"


def test_a_configuration_next_to_the_file_gives_the_normalization():
    sidecar = {"preprocessor": {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}}
    match = identify(file_with(content_of("Hugging Face ViT"), sidecar=sidecar))
    assert match.spec.normalization.mean == (0.5, 0.5, 0.5)


def test_another_epsilon_of_the_norms_is_noted():
    """Hugging Face's ViT has 1e-12, and all networks that it was converted from have 1e-6."""
    match = identify(file_with(content_of("Hugging Face ViT"), sidecar={"layer_norm_eps": 1e-12}))
    assert match.notes == ("config.json says layer_norm_eps = 1e-12; the authors' 1e-6 is used",)


@pytest.mark.parametrize(
    "config",
    [
        {"hidden_act": "relu"},
        {"qkv_bias": False},
        {"hidden_size": 384, "num_attention_heads": 12},
    ],
)
def test_a_configuration_of_another_network_is_refused(config):
    with pytest.raises(UserError, match="this suite does not build other vision transformers"):
        identify(file_with(content_of("Hugging Face ViT"), sidecar=config))


# ---- Files


@pytest.mark.parametrize("name", ["timm", "DINOv2", "Hugging Face registers"])
def test_safetensors_are_read(name, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({k: v.contiguous() for k, v in content_of(name).items()}, path)
    backbone, provenance = load_backbone(path)
    model = timm_model(FILES[name][1])
    assert provenance.family == FILES[name][0]
    side = VITS[provenance.arch].image_size
    with torch.no_grad():
        wanted = model.forward_features(images(side))[:, 0]
        found = backbone.represent(images(side), "cls")
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_half_precision_is_converted_and_noted():
    content = {name: value.half() for name, value in content_of("DINOv2 registers").items()}
    match = identify(file_with(content))
    assert all(value.dtype == torch.float32 for value in match.state.values())
    wanted = content["cls_token"].float() + content["pos_embed"][:, :1].float()
    assert torch.equal(match.state["cls_token"], wanted)
    assert any("float16" in note for note in match.notes)


def test_an_untrained_network_is_reported(tmp_path):
    content = content_of("timm")
    for name in ("blocks.0.norm1", "norm"):
        content[f"{name}.weight"] = torch.ones(32)
        content[f"{name}.bias"] = torch.zeros(32)
    torch.save(content, tmp_path / "vit.pth")
    _, provenance = load_backbone(tmp_path / "vit.pth")
    (sign,) = provenance.warnings
    assert sign.startswith(
        "untouched initialization: 2 of 5 LayerNorm layers, such as blocks.0.norm1"
    )


@pytest.mark.parametrize(
    ("size", "line"),
    [
        (Transformer(8, 32, 3, 2, image_size=32), "depth  3; the nearest one, vit_base_toy, has 2"),
        (
            Transformer(8, 48, 2, 2, image_size=32),
            "width  48; the nearest one, vit_base_toy, has 32",
        ),
        (Transformer(4, 32, 2, 2, image_size=32), "patch  4; the nearest one, vit_base_toy, has 8"),
    ],
    ids=["depth", "width", "patch"],
)
def test_a_network_of_another_size_names_the_layout_and_the_size_only(size, line, monkeypatch):
    monkeypatch.setattr("msbreg.checkpoints.layouts.tensors.VITS", {PLAIN: VITS[PLAIN]})
    content = {k: torch.ones(shape) for k, shape in size.shapes(32).items()}
    content = {"model": content | {"mask_token": torch.zeros(1, 1, 32)}}
    with pytest.raises(UserError) as caught:
        identify(file_with(content))
    layout, *sizes, hint, _ = str(caught.value).splitlines()
    assert "has the layout mae (encoder), but another size than" in layout
    assert sizes == [f"  {line}"]
    assert "--arch timm/NAME" in hint


def test_weights_with_nan_are_reported_as_such_and_not_as_another_network():
    content = content_of("timm")
    content["blocks.1.norm1.weight"][4] = torch.nan
    with pytest.raises(UserError) as caught:
        identify(file_with(content))
    message = str(caught.value)
    assert (
        "layout vit (backbone) and the tensors of vit_base_toy, but 1 of 30 contain NaN" in message
    )
    assert "  not finite   blocks.1.norm1.weight: 1 values\n" in message
    assert "does not match" not in message
    assert "--arch" not in message


def test_networks_that_are_not_built_have_a_hint():
    content = content_of("DINOv2")
    content["blocks.0.mlp.w12.weight"] = content.pop("blocks.0.mlp.fc1.weight")
    with pytest.raises(UserError, match="DINOv2's ViT-g, whose SwiGLU"):
        identify(file_with(content))
    content = content_of("timm")
    content |= {
        "fc_norm.weight": content.pop("norm.weight"),
        "fc_norm.bias": content.pop("norm.bias"),
    }
    with pytest.raises(UserError, match="give --arch timm/NAME"):
        identify(file_with(content))


# ---- The tables of names, at their real sizes


@pytest.mark.parametrize("arch", VITS)
@pytest.mark.parametrize(
    "names",
    [
        vit_names.timm,
        vit_names.dinov2_registers,
        vit_names.huggingface_vit,
        vit_names.huggingface_dinov2,
    ],
    ids=["timm", "dinov2", "hf-vit", "hf-dinov2"],
)
def test_parts_of_real_networks_are_assembled_to_timms_shapes(arch, names):
    a = VITS[arch]
    parts = {k: torch.empty(v, device="meta") for k, v in names.parts(a, a.image_size).items()}
    assert names.image_size(a, parts) == a.image_size
    assert set(parts) <= set(names.names.values())
    found = {k: tuple(v.shape) for k, v in names.assembled(parts, a).items()}
    assert list(found.items()) == list(a.shapes(a.image_size).items())


def test_the_published_sizes_are_recognized_by_their_tensors():
    for arch, family in (
        ("vit_small_patch16", "vit"),
        ("vit_small_patch8", "vit"),
        ("vit_small_patch14_reg4_dinov2", "vit"),
        ("vit_small_patch16_heads12", "moco-v3-vit"),
    ):
        one, a = torch.tensor(0.5), VITS[arch]
        state = {k: one.expand(v) for k, v in a.shapes(a.image_size).items()}
        content = state
        if family == "moco-v3-vit":
            content = {"state_dict": under("module.base_encoder.", state | linear("head.0."))}
        match = identify(file_with(content))
        assert (match.row.name, match.spec.arch) == (family, arch)


def test_a_prefix_that_is_not_in_the_table_is_not_guessed():
    content = under("encoder.", huggingface_vit(timm_model(PLAIN)))
    with pytest.raises(UserError, match="matches no known checkpoint layout"):
        identify(file_with(content))
    with pytest.raises(UserError, match="matches no known checkpoint layout"):
        identify(file_with({"weights": mae_full(timm_model(PLAIN), timm_model(PLAIN))["model"]}))
