"""A file of every family, with the structure that its repository writes.

``FAMILIES[name](state, twin)`` gives the content of a file with ``state`` (torchvision names) as the
network that the family evaluates and ``twin`` as the other one, with heads, queues and other entries.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from msbreg.checkpoints.layouts import names
from msbreg.checkpoints.layouts.names import shapes

State = dict[str, Tensor]


def made_state(arch: str, start: float = 0.0) -> State:
    """A state dict of an architecture; each tensor repeats a distinct number, so files are small."""
    state = {}
    for index, (name, shape) in enumerate(shapes(arch).items()):
        value = torch.tensor(start + (index + 1) / 1000)
        if name.endswith(names.COUNTER):
            value = torch.tensor(100 + index)
        state[name] = value.expand(shape) if shape else value
    return state


def named(state: State, dialect: names.Dialect, prefix: str = "", counters: bool = True) -> State:
    made = {prefix + name: value for name, value in names.to_dialect(state, dialect).items()}
    return {k: v for k, v in made.items() if counters or not k.endswith(names.COUNTER)}


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def linear(prefix: str, inputs: int = 4, outputs: int = 3, bias: bool = True) -> State:
    made = {f"{prefix}weight": torch.ones(outputs, inputs)}
    return made | ({f"{prefix}bias": torch.zeros(outputs)} if bias else {})


def norm(prefix: str, affine: bool = True) -> State:
    layer = nn.BatchNorm1d(3, affine=affine)
    return {prefix + name: value for name, value in layer.state_dict().items()}


def mlp(prefix: str) -> State:
    return linear(f"{prefix}0.") | norm(f"{prefix}1.") | linear(f"{prefix}3.")


def training(state: State, **more: Any) -> dict[str, Any]:
    """A training file of PyTorch's ImageNet example and its descendants."""
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    return {"epoch": 200, "arch": "resnet50", "state_dict": state, "optimizer": optimizer} | more


def lightning(state: State, **more: Any) -> dict[str, Any]:
    return {
        "epoch": 9,
        "global_step": 100,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": state,
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
    } | more


def moco(s: State, t: State) -> Any:
    return training(
        under("module.encoder_q.", s | linear("fc.0.") | linear("fc.2."))
        | under("module.encoder_k.", t | linear("fc.0.") | linear("fc.2."))
        | {"module.queue": torch.ones(4, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    )


def moco_v3(s: State, t: State) -> Any:
    head = linear("fc.0.", bias=False) | norm("fc.1.") | linear("fc.3.") | norm("fc.4.", False)
    state = under("module.base_encoder.", s | head) | under("module.momentum_encoder.", t | head)
    return training(state | under("module.predictor.", mlp("")), scaler={"scale": 1.0})


def simsiam(s: State, t: State) -> Any:
    state = under("module.encoder.", s | mlp("fc.") | norm("fc.7.", False))
    return training(state | under("module.predictor.", mlp("")))


def swav(s: State, t: State) -> Any:
    state = under("module.", s) | mlp("module.projection_head.")
    return state | linear("module.prototypes.", bias=False)


def deepcluster(s: State, t: State) -> Any:
    heads = linear("module.prototypes.prototypes0.", bias=False)
    heads |= linear("module.prototypes.prototypes1.", bias=False)
    return {
        "epoch": 3,
        "state_dict": under("module.", s) | mlp("module.projection_head.") | heads,
        "optimizer": {},
    }


def barlow(s: State, t: State) -> Any:
    state = under("module.backbone.", s) | mlp("module.projector.") | norm("module.bn.", False)
    return {"epoch": 1000, "model": state, "optimizer": {"param_groups": [{}]}}


def vicreg(s: State, t: State) -> Any:
    state = under("module.backbone.", s) | mlp("module.projector.")
    return {"epoch": 1000, "model": state, "optimizer": {"param_groups": [{}]}}


def wmse(s: State, t: State) -> Any:
    state = under("model.module.", s) | mlp("head.") | mlp("pred.")
    return state | under("model_t.module.", t) | mlp("head_t.")


def obow(s: State, t: State) -> Any:
    state = named(s, names.obow, "module.feature_extractor._feature_blocks.")
    state |= named(t, names.obow, "module.feature_extractor_teacher._feature_blocks.")
    for other in ("bow_extractor", "bow_predictor", "linear_classifier"):
        state |= linear(f"module.{other}.0.")
    return {"epoch": 199, "network": state, "meters": {"loss": 1.0}}


def pixpro(s: State, t: State) -> Any:
    state = under("module.encoder.", s) | under("module.encoder_k.", t)
    for other in ("projector", "projector_k", "value_transform", "projector_instance", "predictor"):
        state |= mlp(f"module.{other}.")
    return {"model": state}


def densecl(s: State, t: State) -> Any:
    state = under("encoder_q.0.", s) | mlp("encoder_q.1.mlp.") | under("encoder_k.0.", t)
    state |= mlp("encoder_k.1.mlp.") | {"queue": torch.ones(2, 2), "queue2": torch.ones(2, 2)}
    state |= {"queue_ptr": torch.zeros(1), "queue2_ptr": torch.zeros(1)}
    return {"meta": {"epoch": 200}, "state_dict": state | under("backbone.", s), "optimizer": {}}


def mmselfsup(s: State, t: State) -> Any:
    state = under("backbone.", s) | mlp("neck.") | mlp("head.predictor.")
    state |= under("encoder_k.module.0.", t) | mlp("encoder_k.module.1.")
    state |= {"encoder_k.steps": torch.tensor(3), "queue": torch.ones(2, 2)}
    state |= {"data_preprocessor.mean": torch.ones(3, 1, 1)}
    return {"meta": {"epoch": 200}, "state_dict": state, "message_hub": {}, "param_schedulers": []}


def mmsegmentation(s: State, t: State) -> Any:
    state = under("backbone.", s) | linear("decode_head.psp_modules.0.1.conv.")
    state |= linear("decode_head.conv_seg.") | linear("auxiliary_head.conv_seg.")
    return {"meta": {"CLASSES": ("road",), "PALETTE": [[128, 64, 128]]}, "state_dict": state}


def vissl(s: State, t: State) -> Any:
    model = {"trunk": under("_feature_blocks.", s), "heads": linear("0.clf.0.")}
    return {
        "phase_idx": 199,
        "iteration": 10,
        "loss": 0.1,
        "type": "consolidated",
        "classy_state_dict": {"base_model": {"model": model}, "loss": {}, "hooks": {}},
    }


def vissl_evaluation(s: State, t: State) -> Any:
    content = vissl(s, t)
    trunk = under("base_model._feature_blocks.", s)
    content["classy_state_dict"]["base_model"]["model"]["trunk"] = trunk
    return content


def vissl_dino(s: State, t: State) -> Any:
    content = vissl(t, s)
    loss = under("momentum_teacher.module.trunk._feature_blocks.", s)
    loss |= linear("momentum_teacher.module.heads.0.") | {"center": torch.zeros(1, 3)}
    content["classy_state_dict"]["loss"] = loss
    return content


def vissl_moco(s: State, t: State) -> Any:
    content = vissl(s, t)
    content["classy_state_dict"]["loss"] = under("moco_encoder.trunk._feature_blocks.", t)
    return content


def pycontrast(s: State, t: State) -> Any:
    state = under("module.encoder.", s) | mlp("module.head.") | mlp("module.head_jig.")
    memory = {"memory": torch.ones(2, 2)}
    ema = under("encoder.", t) | mlp("head.")
    return {"model": state, "contrast": memory, "optimizer": {}, "epoch": 200, "model_ema": ema}


class Memory(nn.Module):
    """Takes the place of the pickled memory bank of NPID and Local Aggregation."""


def npid(s: State, t: State) -> Any:
    state = under("module.", s | linear("fc."))
    return training(state, lemniscate=Memory(), best_prec1=torch.tensor(0.4))


def local_aggregation(s: State, t: State) -> Any:
    state = under("module.", s | linear("fc."))
    return {"model_state_dict": state, "memory_bank": Memory(), "epoch": 1}


def dino(s: State, t: State) -> Any:
    return {
        "student": under("module.backbone.", t) | mlp("module.head.mlp."),
        "teacher": under("module.backbone.", s) | mlp("module.head.mlp."),
        "optimizer": {},
        "epoch": 800,
        "args": argparse.Namespace(arch="resnet50"),
        "dino_loss": {"center": torch.zeros(1, 3)},
    }


def simclr_sthalles(s: State, t: State) -> Any:
    return training(under("backbone.", s | linear("fc.0.") | linear("fc.2.")))


def byol_sthalles(s: State, t: State) -> Any:
    return {
        "online_network_state_dict": named(s, names.children, "encoder.") | mlp("projetion.net."),
        "target_network_state_dict": named(t, names.children, "encoder.") | mlp("projetion.net."),
        "optimizer_state_dict": {},
    }


def spijkervet(s: State, t: State) -> Any:
    heads = linear("projector.0.", bias=False) | linear("projector.2.", bias=False)
    return under("encoder.", s) | heads


def spijkervet_lightning(s: State, t: State) -> Any:
    state = under("encoder.", s) | under("model.encoder.", s)
    for layer in ("model.projector.0.", "model.projector.2.", "projector.0.", "projector.2."):
        state |= linear(layer, bias=False)
    return lightning(state)


def yaox12(s: State, t: State) -> Any:
    state = named(s, names.children, "module.online_network.encoder.")
    state |= mlp("module.online_network.projetion.net.") | mlp("module.predictor.net.")
    state |= named(t, names.children, "module.target_network.encoder.")
    state |= mlp("module.target_network.projetion.net.")
    return {"config": {}, "epoch": 300, "steps": 10, "model": state, "optimizer": {}}


def yaox12_published(s: State, t: State) -> Any:
    def renamed(state: State) -> State:
        return {f"net.{i}.{k.rpartition('.')[2]}": v for i, (k, v) in enumerate(state.items())}

    heads = {"online_projection": mlp(""), "predictor": mlp(""), "target_projection": mlp("")}
    return {"online_backbone": renamed(s), "target_backbone": renamed(t)} | heads


def lucidrains(s: State, t: State) -> Any:
    state = under("net.", s | linear("fc.")) | under("online_encoder.net.", s | linear("fc."))
    state |= mlp("online_encoder.projector.") | mlp("online_predictor.")
    return (
        state | under("target_encoder.net.", t | linear("fc.")) | mlp("target_encoder.projector.")
    )


def solo_learn(s: State, t: State, prefix: str = "backbone") -> Any:
    state = under(f"{prefix}.", s) | under(f"momentum_{prefix}.", t) | linear("classifier.")
    for other in ("projector.", "momentum_projector.", "predictor."):
        state |= mlp(other)
    return lightning(state | {"queue": torch.ones(2, 2), "queue_ptr": torch.zeros(1)})


def lightly(s: State, t: State) -> Any:
    state = under("backbone.", s) | under("teacher_backbone.", t)
    state |= mlp("projection_head.layers.") | mlp("teacher_projection_head.layers.")
    state |= linear("online_classifier.linear.") | {"criterion.center": torch.zeros(1, 3)}
    return lightning(state, hyper_parameters={"batch_size_per_device": 128, "num_classes": 1000})


def lightly_dino(s: State, t: State) -> Any:
    state = under("backbone.", s) | under("student_backbone.", t)
    state |= mlp("projection_head.layers.") | mlp("student_projection_head.layers.")
    return lightning(state | linear("online_classifier.linear."))


def lightly_examples(s: State, t: State) -> Any:
    state = named(s, names.children, "backbone.") | named(t, names.children, "backbone_momentum.")
    return lightning(
        state | mlp("projection_head.layers.") | mlp("projection_head_momentum.layers.")
    )


def lightly_examples_dino(s: State, t: State) -> Any:
    state = named(s, names.children, "teacher_backbone.")
    state |= named(t, names.children, "student_backbone.") | mlp("teacher_head.layers.")
    return lightning(state | mlp("student_head.layers.") | {"criterion.center": torch.zeros(1, 3)})


def timm_training(s: State, t: State) -> Any:
    wrapped = under("module.", s | linear("fc."))
    args = argparse.Namespace(model="resnet50")
    return training(wrapped, version=2, args=args, state_dict_ema=t | linear("fc."))


def huggingface(s: State, t: State) -> Any:
    return named(s, names.huggingface, "resnet.") | linear("classifier.1.")


def detectron2(s: State, t: State) -> Any:
    model = named(s, names.detectron2, counters=False) | linear("stem.fc.")
    return {"model": model, "__author__": "torchvision", "matching_heuristics": True}


def msra(s: State, t: State, dialect: names.Dialect = names.caffe2) -> Any:
    content = named(s, dialect, counters=False)
    return content | {
        "fc1000_w": torch.ones(3, 4),
        "fc1000_b": torch.ones(3),
        "conv1_b": torch.ones(64),
    }


def haiku(s: State, t: State) -> Any:
    """The content after unpickling: a named tuple has its values in ``args``."""

    def tree(state: State, buffers: bool) -> dict[str, dict[str, Tensor]]:
        made: dict[str, dict[str, Tensor]] = {}
        for name, value in state.items():
            place = names.place(name)
            if place.tensor == names.COUNTER or buffers != place.tensor.startswith("running"):
                continue
            value = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.view(1, 1, 1, -1)
            module, _, leaf = f"res_net50/~/{names.haiku(place)}".rpartition("/")
            made.setdefault(module, {})[leaf] = value
            if buffers:
                made[module] |= {"hidden": value + 1, "counter": torch.tensor(7)}
        for other in ("projector", "predictor"):
            layer, leaf = ("batch_norm/~/mean_ema", "average") if buffers else ("linear_0", "w")
            made[f"{other}/~/{layer}"] = {leaf: torch.ones(2)}
        return made

    args = [tree(s, False), tree(t, False), tree(s, True), tree(t, True), {}]
    return {"experiment_state": {"name": "_ByolExperimentState", "args": args}, "step": 10}


def ours(s: State, t: State) -> Any:
    config = {"method": "msbreg", "views": 4, "epochs": 1, "batch_size": 2, "seed": 0}
    return {
        "schema": 1,
        "kind": "msbreg-pretrain",
        "arch": "resnet18",
        "image_size": 64,
        "step": 3,
        "steps": 3,
        "config": config,
        "online": under("backbone.", s) | mlp("projector.") | mlp("predictor."),
        "target": under("backbone.", t) | mlp("projector."),
    }


Builder = Callable[[State, State], Any]
FAMILIES: dict[str, tuple[str, Builder]] = {
    "MoCo v2": ("moco", moco),
    "MoCo v3": ("moco-v3", moco_v3),
    "SimSiam": ("simsiam", simsiam),
    "SwAV": ("swav", swav),
    "DeepCluster-v2 training": ("swav-training", deepcluster),
    "Barlow Twins full": ("barlow-twins", barlow),
    "Barlow Twins resnet50.pth": ("torchvision", lambda s, t: s),
    "VICReg full": ("vicreg", vicreg),
    "W-MSE": ("w-mse", wmse),
    "OBoW full": ("obow", obow),
    "OBoW extractor": (
        "obow-extractor",
        lambda s, t: {"network": named(s, names.obow, "_feature_blocks."), "epoch": 1},
    ),
    "OBoW torchvision": ("obow-torchvision", lambda s, t: {"network": s | linear("fc.")}),
    "PixPro": ("pixpro", pixpro),
    "DenseCL training": ("openmmlab", densecl),
    "DenseCL extracted": (
        "openmmlab-extracted",
        lambda s, t: {"state_dict": s, "author": "OpenSelfSup"},
    ),
    "DetCo": ("openmmlab-extracted", lambda s, t: {"state_dict": s}),
    "MMSelfSup 1.x": ("openmmlab", mmselfsup),
    "MMSegmentation": ("openmmlab", mmsegmentation),
    "VISSL training": ("vissl", vissl),
    "VISSL DINO": ("vissl-dino", vissl_dino),
    "VISSL MoCo": ("vissl", vissl_moco),
    "VISSL evaluation": ("vissl-evaluation", vissl_evaluation),
    "VISSL converted": (
        "vissl-converted",
        lambda s, t: {"model_state_dict": under("_feature_blocks.", s)},
    ),
    "PyContrast": ("pycontrast", pycontrast),
    "NPID": ("npid", npid),
    "Local Aggregation": ("local-aggregation", local_aggregation),
    "DINO full": ("dino", dino),
    "SimCLR v2 converted": (
        "simclr-v2-tf",
        lambda s, t: {
            "resnet": named(s, names.simclr_v2) | linear("fc."),
            "head": linear("layers.0."),
        },
    ),
    "SimCLR sthalles": ("simclr-sthalles", simclr_sthalles),
    "SimCLR Spijkervet": ("simclr-spijkervet", spijkervet),
    "SimCLR Spijkervet Lightning": ("simclr-spijkervet-lightning", spijkervet_lightning),
    "BYOL DeepMind": ("byol-deepmind", haiku),
    "BYOL sthalles": ("byol-sthalles", byol_sthalles),
    "BYOL sthalles encoder": (
        "byol-sthalles-encoder",
        lambda s, t: {"encoder_state_dict": named(s, names.children)},
    ),
    "BYOL yaox12 training": ("byol-yaox12", yaox12),
    "BYOL yaox12 published": ("byol-yaox12-published", yaox12_published),
    "BYOL lucidrains": ("byol-lucidrains", lucidrains),
    "solo-learn": ("solo-learn", solo_learn),
    "solo-learn old": ("solo-learn-old", lambda s, t: solo_learn(s, t, "encoder")),
    "lightly": ("lightly", lightly),
    "lightly DINO": ("lightly-dino", lightly_dino),
    "lightly examples": ("lightly-examples", lightly_examples),
    "lightly examples DINO": ("lightly-examples-dino", lightly_examples_dino),
    "Lightning": ("lightning", lambda s, t: lightning(under("backbone.", s))),
    "torchvision": ("torchvision", lambda s, t: s | linear("fc.")),
    "MoCo linear evaluation": (
        "imagenet-example",
        lambda s, t: training(under("module.", s | linear("fc.")), best_acc1=torch.tensor(67.0)),
    ),
    "timm training": ("timm-training", timm_training),
    "Hugging Face": ("huggingface", huggingface),
    "Hugging Face base": ("huggingface-base", lambda s, t: named(s, names.huggingface)),
    "Detectron2 torchvision": ("detectron2", detectron2),
    "Detectron2 MSRA": ("detectron2-msra", msra),
    "Caffe2": (
        "caffe2",
        lambda s, t: msra(s, t, names.caffe2_short),
    ),
    "ours": ("msbreg", ours),
    "ours, DINO": ("msbreg-target", lambda s, t: ours(t, s) | {"evaluated": "target"}),
}

BOTTLENECK = {"SimCLR v2 converted", "BYOL DeepMind", "Detectron2 MSRA", "Caffe2"}
"""Families that exist only as ResNet-50; the others are tested as the smaller ResNet-18."""
