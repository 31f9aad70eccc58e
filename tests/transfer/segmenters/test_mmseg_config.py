"""Cards are translated to MMSegmentation's settings; checked without MMSegmentation."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from msbreg.backbones.spec import BackboneSpec
from msbreg.run.config import read_yaml
from msbreg.run.errors import UserError
from msbreg.run.options import parse
from tests.transfer.segmenters.mmseg_cases import CLASSES, MSRA
from transfer.segmenters.mmseg_config import (
    config_text,
    network_config,
    run_config,
    strides_and_dilations,
)
from transfer.segmenters.segmentation_config import (
    Config,
    InferenceOptions,
    NetworkOptions,
    SolverOptions,
)

ROOT = Path(__file__).resolve().parents[3]
RESNET50 = BackboneSpec("resnet50")


def card(name: str) -> Config:
    """A published card."""
    config, _ = parse(Config, ["--config", str(ROOT / "configs" / f"{name}.yaml")])
    return config


def settings(config: Config, spec: BackboneSpec = RESNET50, processes: int = 1) -> dict:
    rate = config.solver.learning_rates[0]
    return run_config(config, spec, CLASSES, rate, processes)


@pytest.fixture(scope="module")
def d8() -> dict:
    """FCN-D8 on VOC, whose settings MMSegmentation publishes (configs/fcn, configs/_base_)."""
    return settings(Config(checkpoint="random", **groups("voc12_fcn_d8_20k")))


def groups(name: str) -> dict:
    config = card(name)
    names = ("network", "augmentation", "solver", "inference")
    return {group: getattr(config, group) for group in names}


def test_the_network_of_fcn_d8_is_the_published_one(d8):
    backbone, head = d8["model"]["backbone"], d8["model"]["decode_head"]
    published = {
        "type": "ResNet",
        "depth": 50,
        "strides": (1, 2, 1, 1),
        "dilations": (1, 1, 2, 4),
        "contract_dilation": True,
        "style": "pytorch",
        "norm_eval": False,
    }
    assert published.items() <= backbone.items()
    decoder = {
        "type": "FCNHead",
        "in_channels": 2048,
        "in_index": 3,
        "channels": 512,
        "num_convs": 2,
        "concat_input": True,
        "dropout_ratio": 0.1,
        "align_corners": False,
    }
    assert decoder.items() <= head.items()
    auxiliary = decoder | {
        "in_channels": 1024,
        "in_index": 2,
        "channels": 256,
        "num_convs": 1,
        "concat_input": False,
    }
    assert auxiliary.items() <= d8["model"]["auxiliary_head"].items()
    losses = [d8["model"][name]["loss_decode"] for name in ("decode_head", "auxiliary_head")]
    assert [loss["loss_weight"] for loss in losses] == [1.0, 0.4]
    assert [loss["avg_non_ignore"] for loss in losses] == [False, False]


def test_the_pipeline_of_fcn_d8_is_the_published_one(d8):
    pipeline = d8["train_dataloader"]["dataset"]["pipeline"]
    assert pipeline[2:] == [
        {
            "type": "RandomResize",
            "scale": (2048, 512),
            "ratio_range": (0.5, 2.0),
            "keep_ratio": True,
        },
        {"type": "RandomCrop", "crop_size": (512, 512), "cat_max_ratio": 0.75},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "PhotoMetricDistortion"},
        {"type": "PackSegInputs"},
    ]
    testing = d8["test_dataloader"]["dataset"]["pipeline"]
    assert testing[1] == {"type": "Resize", "scale": (2048, 512), "keep_ratio": True}
    assert [one["type"] for one in testing[2:]] == ["LoadSourceLabels", "PackSegInputs"]
    assert d8["model"]["data_preprocessor"] == {
        "type": "SegDataPreProcessor",
        "mean": [123.675, 116.28, 103.53],
        "std": [58.395, 57.12, 57.375],
        "bgr_to_rgb": True,
        "pad_val": 0,
        "seg_pad_val": 255,
        "size": (512, 512),
    }


def test_the_schedule_of_fcn_d8_is_the_published_one(d8):
    sgd = {"type": "SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 0.0005}
    assert d8["optim_wrapper"] == {"type": "OptimWrapper", "optimizer": sgd}
    assert d8["param_scheduler"] == [
        {
            "type": "PolyLR",
            "eta_min": 1e-4,
            "power": 0.9,
            "begin": 0,
            "end": 20000,
            "by_epoch": False,
        }
    ]
    assert d8["train_cfg"]["max_iters"] == 20000
    assert d8["train_dataloader"]["batch_size"] == 16


def test_mocos_card_has_stride_16_and_steps():
    found = settings(Config(checkpoint="random", **groups("voc12_fcn")))
    backbone = found["model"]["backbone"]
    assert (backbone["strides"], backbone["dilations"]) == ((1, 2, 2, 1), (1, 1, 1, 2))
    assert found["model"]["decode_head"]["dilation"] == 6
    assert found["model"]["decode_head"]["loss_decode"]["avg_non_ignore"]
    (step,) = found["param_scheduler"]
    assert (step["milestones"], step["gamma"]) == ([21_000, 27_000], 0.1)
    assert found["train_dataloader"]["dataset"]["pipeline"][2] == {
        "type": "RandomScale",
        "ratio_range": (0.5, 2.0),
    }


def test_windows_are_those_of_the_card():
    found = settings(Config(checkpoint="random", **groups("cityscapes_fcn_d8_769")))
    assert found["model"]["test_cfg"] == {
        "mode": "slide",
        "crop_size": (769, 769),
        "stride": (513, 513),
    }
    assert found["model"]["decode_head"]["align_corners"]


def test_processes_share_the_batch_and_synchronize_statistics():
    found = settings(Config(solver=SolverOptions(batch_size=16)), processes=4)
    assert found["train_dataloader"]["batch_size"] == 4
    assert found["model"]["backbone"]["norm_cfg"]["type"] == "SyncBN"


def test_rates_and_decays_of_the_heads():
    solver = SolverOptions(head_rate=10, weight_decay=1e-4, head_weight_decay=5e-5)
    keys = settings(Config(solver=solver))["optim_wrapper"]["paramwise_cfg"]["custom_keys"]
    head = {"lr_mult": 10, "decay_mult": 0.5}
    assert keys == {"decode_head": head, "auxiliary_head": head}


def test_a_decay_of_the_heads_alone():
    wrapper = settings(Config(solver=SolverOptions(weight_decay=0.0, head_weight_decay=1e-3)))
    wrapper = wrapper["optim_wrapper"]
    assert wrapper["optimizer"]["weight_decay"] == 1e-3
    assert wrapper["paramwise_cfg"]["custom_keys"]["backbone"] == {"decay_mult": 0.0}
    assert wrapper["paramwise_cfg"]["custom_keys"]["decode_head"]["decay_mult"] == 1.0


def test_old_networks_get_bgr_and_caffes_stride():
    found = settings(Config(), BackboneSpec("resnet50", MSRA, stride_in_1x1=True))
    assert found["model"]["backbone"]["style"] == "caffe"
    assert found["model"]["data_preprocessor"]["bgr_to_rgb"] is False


@pytest.mark.parametrize(
    ("options", "arch", "reason"),
    [
        (NetworkOptions(head="linear"), "resnet50", "network.head is linear"),
        (NetworkOptions(convolutions=0), "resnet50", "network.convolutions is 0"),
        (NetworkOptions(), "resnet200", "no ResNet-200"),
        (NetworkOptions(), "wide_resnet50_2", "Wide ResNet"),
        (NetworkOptions(output_stride=32), "resnet18-cifar", "expected one of 1, 2, 4, 8"),
    ],
)
def test_networks_without_a_counterpart_are_errors(options, arch, reason):
    with pytest.raises(UserError, match=reason):
        network_config(BackboneSpec(arch), 3, options)


@pytest.mark.parametrize("stem", [4, 2, 1])
@pytest.mark.parametrize("removed", range(4))
def test_strides_and_dilations_multiply_to_those_of_the_strided_network(stem, removed):
    output_stride = 8 * stem // 2**removed
    if output_stride < stem:
        return
    strides, dilations = strides_and_dilations(stem, output_stride)
    assert stem * strides[1] * strides[2] * strides[3] == output_stride
    assert dilations[-1] == 2**removed


def test_the_written_file_is_python_with_the_same_settings(tmp_path):
    config = Config(data=f"folders:{tmp_path}", inference=InferenceOptions(flip=True))
    (tmp_path / "config.py").write_text(config_text(config, RESNET50, CLASSES, 0.01))
    written = runpy.run_path(str(tmp_path / "config.py"))
    for name, value in run_config(config, RESNET50, CLASSES, 0.01).items():
        assert written[name] == value
    assert written["train_dataloader"]["dataset"]["data"] == f"folders:{tmp_path}"


def test_the_written_file_says_how_to_convert_the_backbone_and_what_is_different():
    config = dataclasses.replace(
        Config(checkpoint="my backbone.pth", accumulate=2, amp="bf16"),
        inference=InferenceOptions(mode="center", scales=(0.5, 1.0)),
    )
    text = config_text(config, RESNET50, CLASSES, 0.01)
    lines = text.splitlines()
    assert "'checkpoint': 'backbone_mmseg.pth'" in text
    assert any("my backbone.pth' --to mmseg -o backbone_mmseg.pth" in line for line in lines)
    assert "# MMSegmentation trains in bfloat16 on GPUs only." in lines
    assert "# The score of the card is that of tools/test.py --tta." in lines
    assert "# Not expressed: inference.mode center: whole images are scored." in lines
    assert "# Not expressed: accumulate: batches are not split." in lines


def test_every_card_is_translated_or_refused():
    cards = {file.stem: read_yaml(file) for file in (ROOT / "configs").glob("*.yaml")}
    networks = {
        name: NetworkOptions(**content["network"])
        for name, content in cards.items()
        if "output_stride" in content.get("network", {})
    }
    refused = []
    for name, options in networks.items():
        try:
            assert network_config(RESNET50, 21, options)["type"] == "EncoderDecoder"
        except UserError:
            refused.append(name)
    assert len(networks) >= 9
    assert sorted(refused) == ["digits_segmentation", "voc12_linear_segmentation"]
