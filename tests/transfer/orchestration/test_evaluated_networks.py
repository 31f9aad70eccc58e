"""Which checkpoints of a suite are seeds of one network."""

from typing import Any

from msbreg.backbones.spec import BackboneSpec, Provenance
from transfer.orchestration.evaluated_networks import seeds_of_one_network


def checkpoint(family: str = "msbreg", **details: Any) -> Provenance:
    return Provenance("file", family, "online", BackboneSpec("resnet18"), str(details), 1, details)


def test_checkpoints_that_differ_in_their_seed_only_are_one_network():
    read = [checkpoint(method="byol", seed=seed) for seed in (0, 1)]
    other = checkpoint(method="simclr", seed=0)
    assert seeds_of_one_network([*read, other]) == [True, True, False]


def test_checkpoints_with_one_seed_or_without_seeds_are_different_networks():
    assert seeds_of_one_network([checkpoint(seed=0), checkpoint(seed=0)]) == [False, False]
    assert seeds_of_one_network([checkpoint("moco"), checkpoint("moco")]) == [False, False]
