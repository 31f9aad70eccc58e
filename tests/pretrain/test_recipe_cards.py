"""The pre-training cards compared with the published recipes, which are a separate table here.

MSBReg and its baselines: arXiv 2207.03552, §7 and the tables that the cards name. The other methods: the
papers and repositories that the cards name; ``peak`` is the learning rate after the warm-up.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from msbreg.run.config import flat, plain
from msbreg.run.options import parse, script_of_card
from pretrain.methods import METHODS, build_method
from pretrain.recipe import Config
from pretrain.training import PreTraining, peak_learning_rate
from pretrain.view_batches import ViewBatch

FOLDER = Path(__file__).resolve().parents[2] / "configs"
CARDS = [file for file in sorted(FOLDER.glob("*.yaml")) if script_of_card(file) == Config.script]
OURS = ("cifar10_msbreg", "photos_msbreg", *(f"digits_{name}" for name in METHODS))  # of no paper

# ---- MSBReg: §7.1, §7.2 and Table 9 of the paper

MSBREG: dict[str, Any] = {
    "method": "msbreg",
    "batch_size": 512,
    "lambda_s": 4e-3,
    "lambda_b": 0.5,
    "head_norm": "bn",
    "head.layers": 2,
    "head.output_norm": False,
    "optimizer.name": "lars",
    "optimizer.scale_by_views": True,
    "optimizer.momentum": 0.9,
    "optimizer.trust": 1e-3,
    "optimizer.weight_decay": 1e-5,
    "optimizer.warmup_epochs": 10,
    "optimizer.final_lr": 0,
    "target.base_decay": 0.996,
    "loss.singular_input": "raw",
    "loss.include_self": True,
    "loss.normalize_noise": True,
    "augment.policy": "table9",
    **dict.fromkeys(
        [f"augment.{name}" for name in ("brightness", "contrast", "saturation", "hue")]
    ),
    **dict.fromkeys([f"augment.{name}" for name in ("crop_area", "gray", "flip")]),
    **dict.fromkeys(["augment.blur", "augment.solarize"]),
}
IMAGENET = MSBREG | {"arch": "resnet50", "head.hidden": 2048, "head.out": 256, "augment.size": 224}
IMAGENET |= {"epochs": 300, "views": 4, "peak": 1.2}
IMAGENET100 = MSBREG | {"arch": "resnet18", "head.hidden": 512, "head.out": 128}
IMAGENET100 |= {"augment.size": 224, "epochs": 320, "views": 4, "peak": 3.2}
STL10 = IMAGENET100 | {"augment.size": 64, "peak": 4.0, "train_split": "train+unlabeled"}
STL10 |= {"arch": "resnet18-small"}
# Baselines have no terms of MSBReg unless they are added.
TWO_VIEWS = {"method": "byol", "views": 2, "add": [], "loss.byol_reduce": "mean"}
BYOL_100 = {k: v for k, v in IMAGENET100.items() if "lambda" not in k} | TWO_VIEWS | {"peak": 1.6}
BYOL_1K = {k: v for k, v in IMAGENET.items() if "lambda" not in k} | TWO_VIEWS | {"peak": 0.6}
TABLE_6 = {"batch_size": 256, "head_norm": "ln"}
BYOL_STL = (
    {k: v for k, v in STL10.items() if "lambda" not in k} | TWO_VIEWS | TABLE_6 | {"peak": 1.0}
)
TABLE_6_NOISE = {"loss.normalize_noise": False, "lambda_b": 5e-3}

# ---- The other methods

LARGE: dict[str, Any] = {
    "arch": "resnet50",
    "views": 2,
    "batch_size": 4096,
    "optimizer.name": "lars",
    "optimizer.scale_by_views": False,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-6,
    "optimizer.decay_norms": False,
    "optimizer.bias_rate": 1.0,
    "optimizer.warmup_epochs": 10,
    "optimizer.warmup_start": 0,
    "optimizer.final_lr": 0,
    "augment.size": 224,
    "augment.local_views": 0,
}
PLAIN_SGD = {"optimizer.name": "sgd", "optimizer.decay_norms": True, "optimizer.weight_decay": 1e-4}
MOCO_VIEWS = {"augment.crop_area": [0.2, 1.0], "augment.brightness": 0.4, "augment.contrast": 0.4}
MOCO_VIEWS |= {"augment.saturation": 0.4, "augment.hue": 0.1, "augment.gray": 0.2}
MOCO_VIEWS |= {"augment.flip": 0.5, "augment.blur": 0.5, "augment.solarize": 0.0}
SIMCLR_VIEWS = MOCO_VIEWS | {"augment.brightness": 0.8, "augment.contrast": 0.8}
SIMCLR_VIEWS |= {"augment.saturation": 0.8, "augment.hue": 0.2, "augment.crop_area": [0.08, 1.0]}
BYOL_VIEWS = {"augment.policy": "byol_alternate", "augment.crop_area": None, "augment.blur": None}
BYOL_VIEWS |= {"augment.solarize": None, "augment.saturation": None, "augment.gray": None}
CROPS = {"augment.crop_area": [0.14, 1.0], "augment.local_area": [0.05, 0.14]}
CROPS |= {"augment.local_views": 6, "augment.local_size": 96}
SWAV = LARGE | SIMCLR_VIEWS | CROPS | {"epochs": 800, "peak": 4.8, "head.layers": 2}
SWAV |= {"head.hidden": 2048, "head.out": 128, "optimizer.warmup_start": 0.3}
SWAV |= {"optimizer.final_lr": 0.0048}
EXPANDER = {"head.hidden": 8192, "head.out": 8192, "head.layers": 3, "head.output_norm": False}
TWINS = LARGE | BYOL_VIEWS | EXPANDER | {"epochs": 1000, "batch_size": 2048, "peak": 1.6}
TWINS |= {"optimizer.final_lr": 0.0016}

RECIPES: dict[str, dict[str, Any]] = {
    "imagenet_r50_msbreg": IMAGENET,
    "imagenet_r50_msbreg_100ep": IMAGENET | {"epochs": 100},
    "imagenet_r50_msbreg_200ep": IMAGENET | {"epochs": 200},
    "imagenet100_r18_msbreg": IMAGENET100,
    "imagenet100_r18_msbreg_k8": IMAGENET100 | {"views": 8, "peak": 6.4},
    "imagenet100_r18_bmwreg": IMAGENET100 | {"epochs": 300},
    "imagenet100_r18_byol": BYOL_100,
    "imagenet100_r18_byol_uniformity": BYOL_100 | {"add": ["uniformity"]},
    "stl10_r18_msbreg": STL10,
    "stl10_r18_msbreg_k8": STL10 | {"views": 8, "peak": 8.0},
    "stl10_r18_byol_ln": BYOL_STL,
    "stl10_r18_byol_ln_brownian": BYOL_STL | TABLE_6_NOISE | {"add": ["brownian"]},
    "stl10_r18_msbreg_ln": STL10 | TABLE_6 | TABLE_6_NOISE | {"peak": 2.0},
    "imagenet_r50_byol_paper": BYOL_1K,
    "imagenet_r50_byol_multicrop": BYOL_1K | CROPS | {"loss.local_targets": True},
    # BYOL's configs/byol.py for 1000 epochs.
    "imagenet_r50_byol": LARGE
    | BYOL_VIEWS
    | {"method": "byol", "add": [], "epochs": 1000, "peak": 3.2, "optimizer.weight_decay": 1.5e-6}
    | {"target.base_decay": 0.996, "target.schedule": "cosine", "loss.byol_reduce": "sum"}
    | {"head.hidden": 4096, "head.out": 256, "head.layers": 2, "head.output_norm": False},
    "imagenet_r50_simclr": LARGE
    | SIMCLR_VIEWS
    | {"method": "simclr", "epochs": 1000, "peak": 4.8, "simclr.temperature": 0.1}
    | {"head.hidden": 2048, "head.out": 128, "head.layers": 2, "head.output_norm": True},
    "imagenet_r50_moco_v2": LARGE
    | PLAIN_SGD
    | MOCO_VIEWS
    | {"method": "moco_v2", "epochs": 200, "batch_size": 256, "peak": 0.03, "head_norm": "none"}
    | {"head.hidden": 2048, "head.out": 128, "head.layers": 2, "optimizer.warmup_epochs": 0}
    | {"moco_v2.temperature": 0.2, "moco_v2.queue": 65536, "moco_v2.symmetric": False}
    | {"target.base_decay": 0.999, "target.schedule": "constant"},
    "imagenet_r50_moco_v3": LARGE
    | BYOL_VIEWS
    | {"method": "moco_v3", "epochs": 300, "peak": 4.8, "moco_v3.temperature": 1.0}
    | {"head.hidden": 4096, "head.out": 256, "head.layers": 2, "head.output_norm": True}
    | {"augment.crop_area": [0.2, 1.0], "target.base_decay": 0.99, "target.schedule": "cosine"},
    "imagenet_r50_swav": SWAV
    | {"method": "swav", "swav.prototypes": 3000, "swav.temperature": 0.1, "swav.epsilon": 0.05}
    | {"swav.iterations": 3, "swav.queue": 0, "swav.freeze_epochs": 1},
    "imagenet_r50_deepcluster_v2": SWAV
    | {"method": "deepcluster_v2", "deepcluster_v2.clusters": [3000, 3000, 3000]}
    | {"deepcluster_v2.temperature": 0.1, "deepcluster_v2.iterations": 10},
    "imagenet_r50_simsiam": LARGE
    | PLAIN_SGD
    | MOCO_VIEWS
    | {"method": "simsiam", "epochs": 100, "batch_size": 512, "peak": 0.1, "head.layers": 3}
    | {"head.hidden": 2048, "head.out": 2048, "head.predictor_hidden": 512}
    | {"head.output_norm": True, "simsiam.fixed_predictor_rate": True}
    | {"optimizer.warmup_epochs": 0},
    "imagenet_r50_barlow_twins": TWINS
    | {"method": "barlow_twins", "barlow_twins.off_diagonal": 0.0051, "barlow_twins.scale": 1.0}
    | {"optimizer.bias_rate": 0.0048 / 0.2},
    "imagenet_r50_vicreg": TWINS
    | {"method": "vicreg", "vicreg.invariance": 25, "vicreg.variance": 25, "vicreg.covariance": 1},
    "imagenet_r50_wmse": LARGE
    | SIMCLR_VIEWS
    | {"method": "wmse", "views": 4, "epochs": 100, "batch_size": 1024, "peak": 0.1 * 1024**0.5}
    | {"optimizer.warmup_epochs": 5, "optimizer.weight_decay": 1e-4, "head.layers": 3}
    | {"head.out": 128, "wmse.size": 256},
    "imagenet_r50_dbn": LARGE
    | PLAIN_SGD
    | MOCO_VIEWS
    | {"method": "dbn", "epochs": 200, "batch_size": 512, "peak": 0.04, "dbn.shuffle": True}
    | {"optimizer.warmup_epochs": 5, "optimizer.weight_decay": 5e-4, "head.layers": 3}
    | {"head.hidden": 2048, "head.out": 512},
    "imagenet_r50_dino": LARGE
    | BYOL_VIEWS
    | CROPS
    | {"method": "dino", "epochs": 100, "batch_size": 512, "peak": 0.06, "optimizer.name": "sgd"}
    | {"optimizer.weight_decay": 1e-4, "optimizer.final_lr": 1e-6, "augment.local_views": 8}
    | {"head.hidden": 2048, "head.layers": 3, "dino.prototypes": 65536, "dino.bottleneck": 256}
    | {"dino.teacher_temperature": [0.04, 0.04], "dino.student_temperature": 0.1}
    | {"dino.center_momentum": 0.9, "dino.clip": 3, "dino.freeze_epochs": 1}
    | {"target.base_decay": 0.996, "target.schedule": "cosine"},
}


@functools.cache
def config_of(card: str) -> Config:
    return parse(Config, ["--config", str(FOLDER / f"{card}.yaml")])[0]


def test_every_published_card_is_in_the_table():
    assert {file.stem for file in CARDS} == RECIPES.keys() | set(OURS)


def test_every_method_has_a_card():
    assert {config_of(file.stem).method for file in CARDS} == set(METHODS)


@pytest.mark.parametrize("card", sorted(RECIPES))
def test_a_card_has_the_values_of_its_recipe(card):
    config = config_of(card)
    found = flat(plain(config)) | {"peak": peak_learning_rate(config)}
    differing = {
        name: f"{found[name]!r}, published {value!r}"
        for name, value in RECIPES[card].items()
        if found[name] != (pytest.approx(value) if isinstance(value, float) else value)
    }
    assert not differing


@pytest.mark.parametrize("card", [file.stem for file in CARDS])
def test_a_card_opens_with_its_source_its_command_and_the_expected_score(card):
    lines = (FOLDER / f"{card}.yaml").read_text().splitlines()
    head = lines[: next(n for n, line in enumerate(lines) if not line.startswith("#"))]
    assert len(head[0]) > len("# ")
    for start in ("# Source: ", "# Command: ", "# Expected"):
        assert sum(line.startswith(start) for line in head) == 1, start
    assert f"--config configs/{card}.yaml" in "\n".join(head)


AUGMENT = [
    "size",
    "crop_area",
    "brightness",
    "contrast",
    "saturation",
    "hue",
    "gray",
    "flip",
    "blur",
    "solarize",
]
WITH_TARGET = ("msbreg", "byol", "moco_v2", "moco_v3", "dino")


@pytest.mark.parametrize("card", sorted(RECIPES))
def test_a_published_card_does_not_rely_on_defaults_which_suit_the_digits(card):
    given = flat(yaml.safe_load((FOLDER / f"{card}.yaml").read_text()))
    needed = {"method", "arch", "epochs", "batch_size", "views", "head.hidden"}
    needed |= {"optimizer.base_lr", "optimizer.weight_decay", "optimizer.warmup_epochs"}
    needed |= {f"augment.{name}" for name in AUGMENT}
    if given["method"] in WITH_TARGET:
        needed |= {"target.base_decay"}
    if given["method"] == "msbreg":
        needed |= {"lambda_s", "lambda_b", "loss.singular_input"}
    if given["method"] != "dino":  # its head has another width
        needed |= {"head.out"}
    assert needed <= given.keys()


# ---- Each card takes two steps


def shrunk(config: Config) -> Config:
    """The same method and settings with a tiny network on a few tiny images."""
    replace = dataclasses.replace
    augment = replace(config.augment, size=16, local_size=8)
    small: dict[str, dict[str, Any]] = {
        "moco_v2": {"queue": 16},
        "swav": {"prototypes": 6},
        "deepcluster_v2": {"clusters": (3, 3, 3)},
        "wmse": {"size": 8},
        "dbn": {"group": 2},
        "dino": {"prototypes": 6, "bottleneck": 4},
    }
    own = {
        name: replace(getattr(config, name), **changes)
        for name, changes in small.items()
        if name == config.method
    }
    return replace(
        config,
        arch="resnet18-tiny",
        epochs=1,
        batch_size=8,
        precision="fp32",
        head=replace(config.head, hidden=8, out=4, predictor_hidden=None),
        augment=replace(augment, local_views=min(augment.local_views, 2)),
        optimizer=replace(config.optimizer, warmup_epochs=0.5, warmup_start=0.0),
        **own,
    )


def batch_of(config: Config, step: int) -> ViewBatch:
    generator = torch.Generator().manual_seed(step)
    sides = [config.augment.size] * config.views
    sides += [config.augment.local_size] * config.augment.local_views
    shapes = [(config.batch_size, 3, side, side) for side in sides]
    views = [torch.randint(0, 256, s, generator=generator, dtype=torch.uint8) for s in shapes]
    return ViewBatch(views, torch.arange(config.batch_size) + step * config.batch_size)


@pytest.mark.parametrize("card", [file.stem for file in CARDS])
def test_a_card_trains(card):
    config = shrunk(config_of(card))
    method = build_method(config)
    method.allocate(2 * config.batch_size)
    trained = PreTraining(method, config, torch.device("cpu"), steps=2, epoch=2)
    batches = [batch_of(config, step) for step in range(2)]
    method.prepare(batches, lambda rows: rows)
    trained.train_mode()
    before = [p.detach().clone() for p in method.backbone().parameters()]
    for step, batch in enumerate(batches):
        trained.optimizer.zero_grad()
        rates = trained.learning_rates(step)
        for group, rate in zip(trained.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for loss in trained.losses(trained.model, batch, step):
            loss.total.backward()
        trained.before_update()
        trained.optimizer.step()
        trained.after_step(step)
    after = list(method.backbone().parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
