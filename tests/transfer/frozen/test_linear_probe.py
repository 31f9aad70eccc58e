import dataclasses

import numpy as np
import pytest
import torch

from msbreg.backbones.twin import random_backbone
from msbreg.checkpoints.load import save_checkpoint
from msbreg.data.transforms import EvaluationTransform
from msbreg.run.errors import UserError
from transfer.frozen.heads import Head, Heads
from transfer.frozen.linear_probe import LinearProbe, load_probe, network_identity, save_probe


@pytest.fixture
def probe():
    rng = np.random.default_rng(0)
    return LinearProbe(
        weight=rng.normal(size=(8, 3)).astype(np.float32),
        bias=rng.normal(size=3).astype(np.float32),
        classes=("a", "b", "c"),
        network={"sha256": "0" * 64, "encoder": "online", "arch": "resnet18-tiny"},
        representation="gap",
        transform=EvaluationTransform(16, 16),
    )


def test_a_saved_probe_is_loaded_from_its_file_or_its_folder(tmp_path, probe):
    save_probe(tmp_path / "probe.pth", probe)
    (first, digest), (second, same) = load_probe(tmp_path), load_probe(tmp_path / "probe.pth")
    assert digest == same
    for loaded in (first, second):
        np.testing.assert_array_equal(loaded.weight, probe.weight)
        np.testing.assert_array_equal(loaded.bias, probe.bias)
        assert dataclasses.replace(loaded, weight=probe.weight, bias=probe.bias) == probe


def test_another_network_is_refused(probe):
    _, provenance = random_backbone("resnet18-tiny", seed=0)
    _, other = random_backbone("resnet18-tiny", seed=1)
    own = dataclasses.replace(probe, network=network_identity(provenance.as_dict()))
    own.check_network(provenance)
    with pytest.raises(UserError, match="was trained on another network"):
        own.check_network(other)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"kind": "msbreg-linear"}, "is not a probe"),
        ({"kind": "msbreg-linear-probe"}, "incomplete probe"),
    ],
)
def test_other_files_are_refused(tmp_path, content, words):
    save_checkpoint(tmp_path / "probe.pth", content)
    with pytest.raises(UserError, match=words):
        load_probe(tmp_path)


def test_a_folder_without_a_probe_and_wrong_shapes_are_refused(tmp_path, probe):
    with pytest.raises(UserError, match=r"probe\.pth does not exist; expected the output folder"):
        load_probe(tmp_path)
    save_probe(tmp_path / "probe.pth", dataclasses.replace(probe, classes=("a", "b")))
    with pytest.raises(UserError, match=r"expected \(D, 2\)"):
        load_probe(tmp_path)
    save_probe(tmp_path / "probe.pth", dataclasses.replace(probe, bias=probe.bias * np.nan))
    with pytest.raises(UserError, match="not finite"):
        load_probe(tmp_path)


@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize("norms", [("none",), ("no_affine",), ("none", "no_affine", "affine")])
def test_a_head_as_one_layer_has_the_logits_of_the_head(norms, standardized):
    generator = torch.Generator().manual_seed(0)
    heads = Heads(6, 4, [Head(0.1, norm=norm) for norm in norms], generator)
    for parameter in heads.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator)
    x = 3 + 2 * torch.randn(50, 6, generator=generator)
    mean, deviation = x.mean(0), x.std(0)
    scaled = (x - mean) / deviation if standardized else x
    heads.train()
    heads.logits(scaled)  # updates the running statistics
    heads.eval()
    expected = heads.logits(scaled).detach()
    for index in range(len(norms)):
        weight, bias = heads.as_linear(index, (mean, deviation) if standardized else None)
        torch.testing.assert_close(x @ weight + bias, expected[:, index], rtol=1e-4, atol=1e-4)
