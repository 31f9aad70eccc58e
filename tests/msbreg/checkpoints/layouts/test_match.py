"""Every family loads to exactly the source tensors, and every mismatch is a clear error."""

import warnings
from pathlib import Path

import pytest
import torch

from msbreg.checkpoints.layouts import FORMATS, names
from msbreg.checkpoints.layouts.match import Match, identify
from msbreg.checkpoints.layouts.names import COUNTER
from msbreg.checkpoints.layouts.rows_transformers import TRANSFORMERS
from msbreg.checkpoints.read import FileContent
from msbreg.run.errors import UserError
from tests.msbreg.checkpoints.layouts.families import (
    BOTTLENECK,
    FAMILIES,
    detectron2,
    haiku,
    lightning,
    linear,
    made_state,
    moco,
    named,
    norm,
    training,
    under,
)
from tests.msbreg.checkpoints.layouts.families import msra as msra_file


def file_with(content: object, **more) -> FileContent:
    return FileContent(
        path=Path("ckpt.pth"),
        content=content,
        sha256="0" * 64,
        container="torch zip",
        stubbed=(),
        metadata=more.get("metadata", {}),
        sidecar=more.get("sidecar", {}),
    )


def source(family: str) -> tuple[dict, dict]:
    arch = "resnet50" if family in BOTTLENECK or "published" in family else "resnet18"
    return made_state(arch), made_state(arch, start=1.0)


def assert_same(match: Match, state: dict) -> None:
    assert list(match.state) == list(state)
    uncounted = match.tensor_count < len(state)
    for name, value in state.items():
        if uncounted and name.endswith(COUNTER):
            assert match.state[name] == 0
        else:
            assert torch.equal(match.state[name], value), name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_loads_to_exactly_the_source_tensors(family):
    row, build = FAMILIES[family]
    state, twin = source(family)
    match = identify(file_with(build(state, twin)))
    assert match.row.name == row
    assert match.spec.arch in ("resnet18", "resnet50")
    assert_same(match, state)


@pytest.mark.parametrize(
    ("family", "arch"),
    [
        ("MoCo v2", "resnet101"),
        ("DenseCL training", "resnet101"),
        ("VISSL training", "wide_resnet50_2"),
        ("SwAV", "resnet50_2x"),
        ("torchvision", "wide_resnet50_2"),
        ("torchvision", "resnet152"),
        ("Detectron2 MSRA", "resnet101"),
        ("Hugging Face", "resnet101"),
    ],
)
def test_deeper_and_wider_networks_are_recognized_by_their_tensors(family, arch):
    row, build = FAMILIES[family]
    state, twin = made_state(arch), made_state(arch, start=1.0)
    match = identify(file_with(build(state, twin)))
    assert (match.row.name, match.spec.arch) == (row, arch)
    assert_same(match, state)


def test_the_published_byol_resnet200_of_double_width_is_recognized():
    state = made_state("resnet200_2x")
    tree = haiku(state, {"conv1.weight": state["conv1.weight"]})
    args = tree["experiment_state"]["args"]
    for index, part in enumerate(args):
        args[index] = {key.replace("res_net50", "res_net200"): v for key, v in part.items()}
    match = identify(file_with(tree))
    assert (match.row.name, match.spec.arch) == ("byol-deepmind-200", "resnet200_2x")
    assert match.tensor_count == sum(not name.endswith(COUNTER) for name in state)


def test_a_key_with_very_many_components_is_not_a_network():
    with pytest.raises(UserError, match="matches no known"):
        identify(file_with({"a." * 100_000 + "layer1.0.conv1.weight": torch.ones(1)}))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_missing_tensor_is_named(family):
    row, build = FAMILIES[family]
    state, twin = source(family)
    gone = "layer3.1.bn2.weight"
    content = build({k: v for k, v in state.items() if k != gone}, twin)
    with pytest.raises(UserError) as error:
        identify(file_with(content))
    if row != "byol-yaox12-published":  # matched by order: the missing tensor is unknown
        assert f"missing      {gone}" in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tensor_with_the_wrong_shape_is_named_with_both_shapes(family):
    _, build = FAMILIES[family]
    state, twin = source(family)
    changed = state | {"layer2.1.bn1.bias": torch.zeros(7)}
    with pytest.raises(UserError) as error:
        identify(file_with(build(changed, twin)))
    if "published" not in family:
        assert "wrong shape  layer2.1.bn1.bias (7,), expected (128,)" in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_values_that_are_not_finite_are_counted(family):
    _, build = FAMILIES[family]
    state, twin = source(family)
    broken = state["layer1.0.bn1.running_mean"].clone()
    broken[3] = float("nan")
    with pytest.raises(UserError, match=r"not finite   layer1\.0\.bn1\.running_mean: 1 values"):
        identify(file_with(build(state | {"layer1.0.bn1.running_mean": broken}, twin)))


@pytest.mark.parametrize("family", FAMILIES)
def test_an_unexplained_key_is_an_error(family):
    row, build = FAMILIES[family]
    state, twin = source(family)
    content = build(state, twin)
    place = _state_of(content, row)
    place["surprise.weight"] = torch.ones(2)
    with pytest.raises(UserError) as error:
        identify(file_with(content))
    if "published" not in family:
        assert "surprise" in str(error.value)


def _state_of(content: dict, name: str) -> dict:
    row = next(r for r in FORMATS if r.name == name)
    for step in row.encoders[0].entry[0] if row.encoders[0].entry else row.entry:
        content = content[step]
    return content


@pytest.mark.parametrize(
    "family", [f for f, (row, _) in FAMILIES.items() if row in ("moco", "moco-v3", "pixpro")]
)
def test_a_renamed_momentum_encoder_is_unexplained(family):
    _, build = FAMILIES[family]
    content = build(*source(family))
    place = content.get("state_dict", content.get("model"))
    for key in list(place):
        for old in ("encoder_k.", "momentum_encoder."):
            if old in key:
                place[key.replace(old, "slow_copy.")] = place.pop(key)
    with pytest.raises(
        UserError, match=r"unexplained  slow_copy\.\* \(\d+ keys\), such as slow_copy"
    ):
        identify(file_with(content))


def test_the_momentum_encoder_alone_is_not_used_as_the_query():
    state, twin = source("MoCo v2")
    content = moco(state, twin)
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "encoder_q" not in k}
    with pytest.raises(UserError, match=r"not its query network(.|\n)*--encoder 'momentum'"):
        identify(file_with(content))
    assert_same(identify(file_with(content), encoder="momentum"), twin)


@pytest.mark.parametrize(
    ("family", "encoder"),
    [
        ("MoCo v2", "momentum"),
        ("MoCo v3", "momentum"),
        ("PixPro", "momentum"),
        ("DINO full", "student"),
        ("VISSL DINO", "student"),
        ("VISSL MoCo", "momentum"),
        ("OBoW full", "teacher"),
        ("W-MSE", "target"),
        ("PyContrast", "momentum"),
        ("DenseCL training", "momentum (encoder_k.0)"),
        ("MMSelfSup 1.x", "momentum (encoder_k.0)"),
        ("BYOL DeepMind", "target"),
        ("BYOL sthalles", "target"),
        ("BYOL yaox12 training", "target"),
        ("BYOL yaox12 published", "target"),
        ("BYOL lucidrains", "target"),
        ("solo-learn", "momentum"),
        ("lightly", "momentum (teacher_backbone)"),
        ("lightly DINO", "student"),
        ("lightly examples", "momentum"),
        ("timm training", "average"),
        ("ours", "target backbone"),
    ],
)
def test_another_encoder_is_used_on_request(family, encoder):
    _, build = FAMILIES[family]
    state, twin = source(family)
    match = identify(file_with(build(state, twin)), encoder=encoder)
    assert match.encoder.name == encoder
    assert encoder in match.present
    assert_same(match, twin)


def test_the_error_for_an_unknown_encoder_lists_the_known():
    with pytest.raises(UserError, match=r"--encoder is 'best', but moco files contain: query, mom"):
        identify(file_with(moco(*source("MoCo v2"))), encoder="best")


def test_the_requested_architecture_must_match():
    content = moco(*source("MoCo v2"))
    with pytest.raises(UserError, match="contains a resnet18, but a resnet50 was requested"):
        identify(file_with(content), arch="resnet50")
    assert identify(file_with(content), arch="resnet18").spec.arch == "resnet18"


@pytest.mark.parametrize("token", ["module.", "_orig_mod.", "_fsdp_wrapped_module."])
def test_wrapper_tokens_are_removed_anywhere_in_a_key(token):
    state, _ = source("torchvision")
    wrapped = {key.replace("layer2.", f"layer2.{token}"): value for key, value in state.items()}
    assert_same(identify(file_with(under(token, wrapped))), state)


def test_keys_that_differ_only_in_wrapper_tokens_are_an_error():
    state, _ = source("torchvision")
    with pytest.raises(UserError, match=r"conv1\.weight only once \(it occurs twice"):
        identify(file_with(state | {"module.conv1.weight": torch.ones(64, 3, 7, 7)}))


def test_the_error_for_a_flattened_fsdp_file_names_the_remedy():
    with pytest.raises(UserError, match="FULL_STATE_DICT"):
        identify(file_with({"layer1._flat_param": torch.ones(5)}))


def test_a_bare_state_dict_with_a_classifier_needs_a_family():
    state, _ = source("torchvision")
    content = {"state_dict": state | linear("fc.")}
    with pytest.raises(UserError) as error:
        identify(file_with(content))
    assert "--family simclr-tf" in str(error.value)
    assert "--family torchvision-wrapped" in str(error.value)
    assert identify(file_with(content), family="simclr-tf").spec.normalization.std == (
        1.0,
        1.0,
        1.0,
    )
    assert (
        identify(file_with(content), family="torchvision-wrapped").spec.normalization.std[0]
        == 0.229
    )


def test_the_error_for_an_unknown_family_lists_the_known():
    with pytest.raises(
        UserError,
        match=r"--family 'mocov9' is unknown; did you mean moco\?\nExpected one of: msbreg, ",
    ):
        identify(file_with({}), family="mocov9")


def test_a_file_of_another_family_than_requested_is_rejected():
    with pytest.raises(UserError, match="matches no known checkpoint layout"):
        identify(file_with(moco(*source("MoCo v2"))), family="dino")


def test_an_alias_that_differs_is_unexplained():
    state, twin = source("DenseCL training")
    content = FAMILIES["DenseCL training"][1](state, twin)
    content["state_dict"]["encoder_q.0.conv1.weight"] = torch.ones(64, 3, 7, 7)
    with pytest.raises(UserError, match=r"unexplained  encoder_q\.\* \(1 keys\)"):
        identify(file_with(content))


def test_lightly_dino_is_recognized_by_its_student():
    assert identify(file_with(FAMILIES["lightly DINO"][1](*source("x")))).encoder.name == "teacher"
    assert identify(file_with(FAMILIES["lightly"][1](*source("x")))).encoder.name == "online"


def test_swav_has_its_own_standard_deviation():
    match = identify(file_with(FAMILIES["SwAV"][1](*source("x"))))
    assert match.spec.normalization.std == (0.228, 0.224, 0.225)


def test_msra_is_bgr_with_stride_in_the_1x1():
    match = identify(file_with(msra_file(*source("Detectron2 MSRA"))))
    assert (match.spec.stride, match.spec.normalization.channels) == ("1x1", "BGR")
    assert match.spec.normalization.std == (1 / 255,) * 3


def test_tensorflow_kernels_are_permuted():
    generator = torch.Generator().manual_seed(0)
    state = made_state("resnet50")
    state["conv1.weight"] = torch.randn(64, 3, 7, 7, generator=generator)
    state["layer1.0.conv2.weight"] = torch.randn(64, 64, 3, 3, generator=generator)
    match = identify(file_with(haiku(state, state)))
    assert torch.equal(match.state["conv1.weight"], state["conv1.weight"])
    assert torch.equal(match.state["layer1.0.conv2.weight"], state["layer1.0.conv2.weight"])


def test_half_precision_is_converted_and_noted():
    state, _ = source("torchvision")
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    match = identify(file_with(half))
    assert match.state["conv1.weight"].dtype == torch.float32
    assert any("float16" in note for note in match.notes)


def test_a_single_missing_counter_is_an_error():
    state, _ = source("torchvision")
    del state["layer1.0.bn1.num_batches_tracked"]
    with pytest.raises(UserError, match=r"missing      layer1\.0\.bn1\.num_batches_tracked"):
        identify(file_with(state))


def test_sidecar_configurations_give_normalization_and_stride():
    state = named(made_state("resnet50"), names.huggingface)
    sidecar = {
        "downsample_in_bottleneck": True,
        "preprocessor": {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]},
    }
    match = identify(file_with(state, sidecar=sidecar))
    assert match.spec.stride == "1x1"
    assert match.spec.normalization.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"a": torch.ones(1)}, r"matches no known checkpoint layout(.|\n)*It contains: a \(1\)"),
        ([1, 2], "contains a list, not a dict"),
        ({"state_dict": {"blocks.0.patch_embed.proj.weight": torch.ones(1)}}, "vision transformer"),
        ({"type": "shard_list", "shards": []}, "FSDP shards"),
        (training({"module.encoder1.conv1.weight": torch.ones(32, 1, 7, 7)}), "CMC splits Lab"),
    ],
)
def test_an_unknown_file_is_described(content, expected):
    with pytest.raises(UserError, match=expected):
        identify(file_with(content))


def test_the_error_for_an_unknown_width_describes_the_network():
    one = torch.ones(())
    wide = {k: one.expand([3 * n for n in v.shape]) for k, v in made_state("resnet50").items()}
    with pytest.raises(UserError, match=r"\[3, 4, 6, 3\] blocks in its four stages, conv1 \(192,"):
        identify(file_with(wide))


def test_a_small_stem_is_not_guessed():
    state, _ = source("torchvision")
    state["conv1.weight"] = torch.ones(64, 3, 3, 3)
    with pytest.raises(UserError, match="3x3 stem is for small images"):
        identify(file_with(lightning(under("backbone.", state))))


def test_a_deep_stem_is_reported():
    state, _ = source("torchvision")
    state |= {"conv1.0.weight": torch.ones(32, 3, 3, 3)}
    del state["conv1.weight"]
    with pytest.raises(UserError, match="deep stem"):
        identify(file_with(state))


def test_detectron2_files_need_no_counters():
    match = identify(file_with(detectron2(*source("x"))))
    assert match.tensor_count == 100
    assert any("num_batches_tracked is absent" in note for note in match.notes)


@pytest.mark.parametrize(
    "dtype",
    [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.int64, torch.float8_e4m3fn],
    ids=str,
)
def test_weights_that_are_not_floating_point_are_rejected(dtype):
    state, _ = source("torchvision")
    state["conv1.weight"] = torch.ones(64, 3, 7, 7).to(dtype)
    with pytest.raises(UserError, match=r"wrong type   conv1\.weight is \w+, expected a floating"):
        identify(file_with(state))


def test_sparse_quantized_and_meta_tensors_are_rejected():
    state, _ = source("torchvision")
    dense = torch.ones(64, 3, 7, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # quantized tensors are deprecated but occur in old files
        quantized = torch.quantize_per_tensor(dense, 0.1, 0, torch.qint8)
    for value in (dense.to_sparse(), quantized, dense.to("meta")):
        with pytest.raises(UserError, match=r"wrong type   conv1\.weight"):
            identify(file_with(state | {"conv1.weight": value}))


def test_a_value_too_large_for_float32_is_not_finite():
    state, _ = source("torchvision")
    state["bn1.bias"] = torch.full((64,), 1e300, dtype=torch.float64)
    with pytest.raises(UserError, match=r"not finite   bn1\.bias: 64 values"):
        identify(file_with(state))


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("lightly", "slow_head_encoder."),
        ("solo-learn", "projector_backbone."),
        ("MMSelfSup 1.x", "neck.backbone."),
        ("lightly examples", "backbone_overhead."),
    ],
)
def test_a_pattern_for_heads_does_not_hide_a_network(family, key):
    _, build = FAMILIES[family]
    state, twin = source(family)
    content = build(state, twin)
    content["state_dict"] |= under(key, twin)
    with pytest.raises(UserError, match="unexplained"):
        identify(file_with(content))


def test_a_network_in_another_entry_is_noted():
    content = FAMILIES["lightly"][1](*source("x"))
    content["current_model_state"] = under("backbone.", made_state("resnet18", 2.0))
    notes = identify(file_with(content)).notes
    assert any("ignored (current_model_state: backbone.*)" in note for note in notes)


@pytest.mark.parametrize(
    "content",
    [
        under("encoder.", made_state("resnet18")) | norm("projector.1.") | linear("projector.0."),
        {"state_dict": under("model.encoder.", made_state("resnet18"))},
        training(under("backbone.", made_state("resnet18") | linear("fc."))),
    ],
    ids=["three-layer projector", "no projector", "one-layer head"],
)
def test_ambiguous_names_do_not_select_a_layout(content):
    with pytest.raises(UserError, match="matches no known checkpoint layout"):
        identify(file_with(content))


def test_a_whole_detector_is_recognized():
    names = ("backbone.stem.conv1.weight", "roi_heads.box_predictor.cls_score.weight")
    with pytest.raises(UserError, match=r"a whole detector: .* transfer/detection\.py --eval-only"):
        identify(file_with({"model": {name: torch.ones(1) for name in names}}))


def test_an_unknown_layout_is_read_at_a_location_given_by_the_user():
    state, twin = source("x")
    content = {"nets": {"student": under("trunk.", state) | under("slow.", twin)}, "epoch": 3}
    match = identify(file_with(content), family="other-zero-one", encoder="nets.student:trunk.")
    assert_same(match, state)
    assert match.spec.normalization.std == (1.0, 1.0, 1.0)
    assert "layout and normalization are as stated by the user" in match.notes
    with pytest.raises(UserError, match="expected ENTRY:PREFIX"):
        identify(file_with(content), family="other", encoder="trunk")
    with pytest.raises(UserError, match="missing      conv1"):
        gone = {k: v for k, v in content["nets"]["student"].items() if "trunk.conv1" not in k}
        identify(file_with({"m": gone}), family="other", encoder="m:trunk.")


def test_a_bare_network_in_an_swa_wrapper_is_read():
    state, _ = source("x")
    averaged = under("module.", state) | {"n_averaged": torch.tensor(5)}
    assert_same(identify(file_with(averaged)), state)


def test_a_nonzero_bias_of_caffes_stem_is_noted():
    assert any(
        "conv1_b is not zero" in n for n in identify(file_with(msra_file(*source("Caffe2")))).notes
    )


def test_keys_are_printed_without_control_characters():
    content = FAMILIES["MoCo v2"][1](*source("x"))
    content["state_dict"]["\x1b[31mevil\n"] = torch.ones(2)
    with pytest.raises(UserError) as error:
        identify(file_with(content))
    assert "\x1b" not in str(error.value)


def test_a_tree_that_contains_itself_is_a_user_error():
    content: dict = {"a": torch.ones(2)}
    content["self"] = content
    with pytest.raises(UserError, match="matches no known"):
        identify(file_with(content))


def test_every_row_has_a_fixture_or_its_own_test():
    tested = {row for row, _ in FAMILIES.values()}
    assert {row.name for row in set(FORMATS) - set(TRANSFORMERS)} - tested == {
        "byol-deepmind-200",
        "simclr-tf",
        "torchvision-wrapped",
        "msbreg-safetensors",
    }
