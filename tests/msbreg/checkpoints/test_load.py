import argparse
import os
import pickle
import resource
from pathlib import Path

import pytest
import torch
import torchvision

import msbreg
from msbreg.backbones.resnet import ResNet, build_backbone, embed
from msbreg.backbones.spec import IMAGENET
from msbreg.checkpoints.layouts import names
from msbreg.checkpoints.load import (
    load_backbone,
    load_checkpoint,
    load_exactly,
    load_resnet,
    random_backbone,
    save_checkpoint,
)
from msbreg.run.errors import UserError
from tests.msbreg.backbones.toy_transformers import (
    PLAIN,
    timm_model,
    toys,  # noqa: F401 - a fixture
)
from tests.processes import run_code

ROOT = Path(__file__).resolve().parents[3]


def content(arch: str = "resnet18-tiny", seed: int = 0) -> dict:
    backbone = build_backbone(arch, seed=seed)
    return {
        "arch": arch,
        "image_size": 32,
        "step": 3,
        "steps": 9,
        "config": {"method": "msbreg", "views": 2, "epochs": 1, "batch_size": 4, "seed": seed},
        "online": {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
        | {"projector.0.weight": torch.zeros(2, 2)},
    }


def test_a_saved_backbone_loads_tensor_for_tensor(tmp_path):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, content(seed=5))
    backbone, provenance = load_backbone(path)
    wanted = build_backbone("resnet18-tiny", seed=5).state_dict()
    found = backbone.state_dict()
    assert all(torch.equal(found[k], wanted[k]) for k in wanted)
    assert not backbone.training
    assert provenance.arch == "resnet18-tiny"
    assert provenance.tensors == len(wanted)
    assert provenance.image_size == 32
    assert len(provenance.sha256) == 64


class OtherPath:
    """A path object of another library."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return str(self.path)


@pytest.mark.parametrize("form", [str, Path, OtherPath])
def test_a_path_may_be_a_string_or_any_path_like_object(tmp_path, form):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, content())
    _, provenance = msbreg.load_backbone(form(path))
    assert provenance.source == str(path)


def test_a_different_architecture_than_requested_is_an_error(tmp_path):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, content())
    with pytest.raises(UserError, match="contains a resnet18-tiny, but a resnet50 was requested"):
        load_backbone(path, arch="resnet50")


def test_a_checkpoint_that_states_the_wrong_architecture_fails_with_the_differences(tmp_path):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, content() | {"arch": "resnet18-small"})
    with pytest.raises(
        UserError, match=r"wrong shape  conv1.weight \(32, 3, 3, 3\), expected \(64"
    ):
        load_backbone(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("backbone.conv1.weight"), "missing      conv1.weight"),
        (
            lambda s: s.update({"backbone.extra": torch.ones(1)}),
            r"unexplained  backbone\.\* \(1 keys\), such as backbone\.extra",
        ),
        (
            lambda s: s["backbone.conv1.weight"].fill_(float("nan")),
            "not finite   conv1.weight: 864",
        ),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path, change, words):
    path, checkpoint = tmp_path / "checkpoint.pth", content()
    change(checkpoint["online"])
    save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match=words):
        load_backbone(path)


def test_a_long_list_of_differences_is_truncated():
    with pytest.raises(UserError, match=r"\.\.\. and \d+ more"):
        load_exactly(build_backbone("resnet18-tiny"), {}, Path("x"))


@pytest.mark.parametrize("kept", [0, 10, 1000, -100])
def test_a_truncated_checkpoint_is_reported(tmp_path, kept):
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, content())
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="checkpoint.pth .* cannot be loaded"):
        load_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harmed"),)

    path = tmp_path / "x.pth"
    torch.save({"state_dict": Harmful()}, path)
    with pytest.raises(UserError, match="cannot be loaded"):
        load_checkpoint(path)
    assert not (tmp_path / "harmed").exists()


def test_the_error_for_an_unknown_checkpoint_lists_its_entries(tmp_path):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {}, "epoch": 3}, path)
    with pytest.raises(
        UserError, match=r"matches no known checkpoint layout\.(.|\n)*It contains: .*epoch"
    ):
        load_backbone(path)


def trained(arch: str, seed: int = 0) -> dict:
    """A state whose BatchNorm layers look trained."""
    generator = torch.Generator().manual_seed(seed)
    state = build_backbone(arch, seed=seed).state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            value.fill_(1000)
        elif value.ndim == 1:
            value.copy_(0.5 + torch.rand(value.shape, generator=generator))
    return state


def moco_file(path: Path, state: dict) -> Path:
    torch.save(
        {
            "epoch": 200,
            "arch": "resnet18",
            "state_dict": {f"module.encoder_q.{k}": v for k, v in state.items()}
            | {"module.encoder_q.fc.weight": torch.ones(3, 512), "module.queue": torch.ones(3, 4)},
            "optimizer": {},
        },
        path,
    )
    return path


def test_a_foreign_checkpoint_gives_the_features_of_torchvision(tmp_path):
    state = trained("resnet18")
    backbone, provenance = load_backbone(moco_file(tmp_path / "moco.pth.tar", state))
    theirs = torchvision.models.resnet18(weights=None).eval()
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(embed(backbone, images), theirs(images))
    assert (provenance.family, provenance.encoder) == ("moco", "query")
    assert (provenance.tensors, provenance.image_size) == (len(state), 0)
    assert provenance.normalization == IMAGENET
    assert provenance.warnings == ()


def test_an_untrained_backbone_loads_with_a_warning_that_is_recorded(tmp_path, caplog):
    state = build_backbone("resnet18", seed=0).state_dict()
    _, provenance = load_backbone(moco_file(tmp_path / "moco.pth.tar", state))
    assert len(provenance.warnings) == 1
    assert "untouched initialization" in provenance.warnings[0]
    assert provenance.warnings[0] in caplog.text
    assert provenance.as_dict()["warnings"] == provenance.warnings


def test_a_resnet_v1_has_its_stride_in_the_1x1(tmp_path):
    state = trained("resnet50")
    caffe = {
        names.caffe2(names.place(k)): v.numpy()
        for k, v in state.items()
        if not k.endswith(names.COUNTER)
    }
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps(caffe))
    backbone, provenance = load_backbone(path, arch="resnet50")
    assert (provenance.family, provenance.stride) == ("detectron2-msra", "1x1")
    assert backbone.layer2[0].conv1.stride == (2, 2)
    assert backbone.layer2[0].conv2.stride == (1, 1)
    assert backbone.layer1[0].conv1.stride == (1, 1)
    assert torch.equal(backbone.layer3[0].conv2.weight, state["layer3.0.conv2.weight"])


def test_objects_in_a_file_are_an_error_and_ignored_with_trust_pickle(tmp_path):
    state = trained("resnet18")
    path = tmp_path / "dino.pth"
    teacher = {f"module.backbone.{k}": v for k, v in state.items()}
    content = {"student": {}, "teacher": teacher, "args": argparse.Namespace(lr=0.1)}
    torch.save(content, path)
    with pytest.raises(UserError, match=r"argparse\.Namespace(.|\n)*trust-pickle"):
        load_backbone(path)
    backbone, provenance = load_backbone(path, trust_pickle=True)
    assert (provenance.family, provenance.encoder) == ("dino", "teacher")
    assert torch.equal(backbone.conv1.weight, state["conv1.weight"])


def test_a_missing_file_and_a_folder_have_different_messages(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        load_checkpoint(tmp_path / "x.pth")
    with pytest.raises(UserError, match="is a folder"):
        load_checkpoint(tmp_path)


def test_the_random_twin_is_a_function_of_its_seed():
    _, first = random_backbone("resnet18-tiny", seed=0)
    _, again = random_backbone("resnet18-tiny", seed=0)
    _, other = random_backbone("resnet18-tiny", seed=1)
    assert first.sha256 == again.sha256 != other.sha256


def test_a_write_that_fails_keeps_the_previous_checkpoint(tmp_path):
    """A file size limit simulates a full disk: the write fails half-way."""
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(path, content(seed=1))
    before = path.read_bytes()
    script = (
        "import sys, resource; from pathlib import Path\n"
        "from msbreg.checkpoints.load import save_checkpoint\n"
        "from msbreg.run.errors import RunFailed\n"
        "from tests.msbreg.checkpoints.test_load import content\n"
        "big = content(seed=2)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: save_checkpoint(Path(sys.argv[1]), big)\n"
        "except RunFailed as error: print(error); sys.exit(1)\n"
    )
    code, out, message = run_code(script, path)
    assert code == 1, message
    assert "the previous file is untouched" in out
    assert path.read_bytes() == before
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint.pth"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100_000


@pytest.mark.usefixtures("toys")
def test_a_task_of_resnets_refuses_a_transformer_and_says_which_tasks_accept_it(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(timm_model(PLAIN).state_dict(), path)
    assert load_backbone(path)[1].arch == PLAIN
    with pytest.raises(
        UserError, match=r"vit\.pth: vit_base_toy is a vision transformer, and only Res"
    ):
        load_resnet(path)


def test_a_resnet_is_loaded_for_the_tasks_of_resnets(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pth", content())
    assert isinstance(load_resnet(tmp_path / "checkpoint.pth")[0], ResNet)


def test_an_address_is_not_an_architecture(tmp_path):
    with pytest.raises(UserError, match="'timm/hf-hub:timm/resnet18' is unknown"):
        load_backbone(tmp_path / "nowhere.pth", arch="timm/hf-hub:timm/resnet18")
