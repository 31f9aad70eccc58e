"""Files written by the libraries themselves, if they are installed."""

import argparse
import copy
import warnings

import pytest
import torch
from torchvision.models import resnet18

from msbreg.checkpoints.load import load_backbone
from tests.msbreg.backbones.toy_transformers import (
    images,
    toys,  # noqa: F401 - a fixture
)

with warnings.catch_warnings():  # deprecations of their own dependencies at import
    warnings.simplefilter("ignore")
    try:
        import lightly.models.modules as lightly_modules
        import pytorch_lightning
    except ImportError:
        pytorch_lightning = None
    try:
        import transformers
    except ImportError:
        transformers = None
    try:
        from omegaconf import OmegaConf
        from solo.methods import BYOL as SoloBYOL
    except ImportError:
        SoloBYOL = None


def with_trained_norms(network: torch.nn.Module) -> torch.nn.Module:
    """Replace every initial BatchNorm value, as training would."""
    generator = torch.Generator().manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.fill_(9)
        elif value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return network


def assert_is(backbone: torch.nn.Module, network: torch.nn.Module) -> None:
    wanted = network.state_dict()
    found = backbone.state_dict()
    assert [k for k in wanted if not k.startswith("fc.")] == list(found)
    assert all(torch.equal(found[k], wanted[k]) for k in found)


def lightning_file(path, model) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice on trainers without loggers
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, barebones=True
        )
        trainer.strategy.connect(model)
        trainer.save_checkpoint(path)


@pytest.mark.skipif(
    pytorch_lightning is None, reason="lightly is not installed (pip install '.[test]')"
)
@pytest.mark.parametrize("kind", ["byol", "dino", "example"])
def test_lightly_modules_saved_by_lightning_are_read(kind, tmp_path):
    class Method(pytorch_lightning.LightningModule):
        def __init__(self):
            super().__init__()
            network = resnet18(weights=None)
            network.fc = torch.nn.Identity()
            if kind == "example":
                self.backbone = torch.nn.Sequential(*list(network.children())[:-1])
            else:
                self.backbone = network
            self.projection_head = lightly_modules.BYOLProjectionHead(512, 8, 8)
            twin = "student_backbone" if kind == "dino" else "teacher_backbone"
            if kind != "example":
                setattr(self, twin, copy.deepcopy(self.backbone))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    model = Method()
    with_trained_norms(model.backbone)
    path = tmp_path / "lightly.ckpt"
    lightning_file(path, model)
    backbone, provenance = load_backbone(path)
    wanted = resnet18(weights=None)
    wanted.fc = torch.nn.Identity()
    values = list(model.backbone.state_dict().values())
    wanted.load_state_dict(dict(zip(wanted.state_dict(), values, strict=True)))
    assert_is(backbone, wanted)
    family = {"byol": "lightly", "dino": "lightly-dino", "example": "lightly-examples"}[kind]
    assert provenance.family == family
    assert provenance.encoder == ("teacher" if kind == "dino" else "online")


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_a_timm_resnet_is_read(form, tmp_path):
    timm = pytest.importorskip("timm")
    network = with_trained_norms(timm.create_model("resnet18", pretrained=False))
    path = tmp_path / f"model.{form}"
    if form == "pth":
        torch.save(network.state_dict(), path)
    else:
        timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    backbone, provenance = load_backbone(path)
    assert_is(backbone, network)
    assert provenance.normalization.mean == network.pretrained_cfg["mean"]


def test_a_timm_training_file_is_read(tmp_path):
    utils = pytest.importorskip("timm.utils")
    import timm

    network = with_trained_norms(timm.create_model("resnet18", pretrained=False))
    saver = utils.CheckpointSaver(
        network,
        torch.optim.SGD(network.parameters(), 0.1),
        args=argparse.Namespace(model="resnet18"),
        checkpoint_dir=str(tmp_path),
        recovery_dir=str(tmp_path),
    )
    saver.save_checkpoint(epoch=3, metric=50.0)
    backbone, provenance = load_backbone(tmp_path / "last.pth.tar", trust_pickle=True)
    assert_is(backbone, network)
    assert provenance.family == "timm-training"


@pytest.mark.skipif(
    SoloBYOL is None,
    reason="solo-learn is not installed: its releases pin versions of torch older than 2.11",
)
def test_byol_of_solo_learn_is_read(tmp_path):
    from lightning.pytorch import Trainer

    settings = {
        "name": "test",
        "method": "byol",
        "backbone": {"name": "resnet18"},
        "data": {"dataset": "custom", "num_large_crops": 2, "num_small_crops": 0, "num_classes": 5},
        "optimizer": {
            "name": "sgd",
            "batch_size": 2,
            "lr": 0.3,
            "classifier_lr": 0.1,
            "weight_decay": 1e-5,
        },
        "scheduler": {"name": "none"},
        "max_epochs": 1,
        "momentum": {"base_tau": 0.99, "final_tau": 1.0},
        "method_kwargs": {"proj_output_dim": 8, "proj_hidden_dim": 8, "pred_hidden_dim": 8},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # solo-learn's and Lightning's own deprecations
        model = SoloBYOL(OmegaConf.create(settings))
        with_trained_norms(model.backbone)
        trainer = Trainer(accelerator="cpu", logger=False, barebones=True)
        trainer.strategy.connect(model)
        trainer.save_checkpoint(tmp_path / "byol.ckpt")
    backbone, provenance = load_backbone(tmp_path / "byol.ckpt")
    assert_is(backbone, model.backbone)
    assert (provenance.family, provenance.encoder) == ("solo-learn", "online")


@pytest.mark.skipif(transformers is None, reason="transformers is not installed")
@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("name", ["ViT", "Dinov2", "Dinov2WithRegisters"])
@pytest.mark.parametrize("kind", ["Model", "ForImageClassification"])
def test_a_vision_transformer_of_hugging_face_is_read(name, kind, tmp_path):
    side, smaller = (32, 32) if name == "ViT" else (40, 24)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    mlp = {"intermediate_size": 128, "layer_norm_eps": 1e-6} if name == "ViT" else {}
    config = getattr(transformers, f"{name}Config")(patch_size=8, image_size=side, **sizes, **mlp)
    model = getattr(transformers, f"{name}{kind}")(config).eval()
    generator = torch.Generator().manual_seed(0)
    for value in model.state_dict().values():
        value.add_(0.3 * torch.randn(value.shape, generator=generator))
    model.save_pretrained(tmp_path)  # since version 5, its names are not those of state_dict()
    (tmp_path / "config.json").unlink()  # it states 16 channels per head, which are refused
    backbone, provenance = load_backbone(tmp_path / "model.safetensors")
    with torch.no_grad():
        wanted = model.base_model(images(smaller)).last_hidden_state[:, 0]
        found = backbone.represent(images(smaller), "cls")
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert provenance.family.endswith("-base") == (kind == "Model")
