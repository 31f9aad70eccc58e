"""The plan of a suite: every task with its complete settings, in an order that can run. Imports PyTorch."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msbreg.backbones.vit_architectures import is_resnet, no_resnet
from msbreg.checkpoints.convert.target import no_small_stem
from msbreg.run.config import Card, differences, plain
from msbreg.run.errors import UserError
from msbreg.run.options import read_card
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.start import settings_of_backbone
from transfer.orchestration.data_assignment import Assigned, Missing, assign
from transfer.orchestration.evaluated_networks import EvaluatedNetwork, evaluated_networks
from transfer.orchestration.protocols import GATE, RESNETS_ONLY
from transfer.orchestration.suite_config import DIGITS, Config
from transfer.orchestration.task import Task, script_module


@dataclass(frozen=True)
class NotApplicable:
    """A protocol that a network cannot run, and why."""

    network: str
    name: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All that a suite runs, and what it does not run.

    Attributes:
        tasks: each after those that it needs; network by network, the checkpoints first.
        networks: of the tasks.
        missing: protocols without data.
        not_applicable: protocols that a network cannot run.
    """

    tasks: tuple[Task, ...]
    networks: tuple[EvaluatedNetwork, ...]
    missing: tuple[Missing, ...]
    not_applicable: tuple[NotApplicable, ...]


def plan_suite(
    config: Config,
    checkpoints: Sequence[Path],
    more_settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """The tasks of a suite; reads the checkpoints and looks at the folders of the data.

    Args:
        checkpoints: usually ``config.all_checkpoints``.
        more_settings: name of a protocol -> settings on top of those of its card.

    Raises:
        UserError: a checkpoint cannot be read, or no protocol takes the data.
    """
    assigned, missing = assign(config)
    networks = evaluated_networks(config, checkpoints)
    tasks: list[Task] = []
    excluded: list[NotApplicable] = []
    for network in networks:
        for one in assigned:
            protocol = one.protocol
            twins = config.random_fine_tuned if protocol.fine_tunes else config.random_seeds
            if network.untrained and (network.seed >= twins or protocol.name == GATE):
                continue
            if reason := why_not(one, network):
                if not network.untrained:
                    excluded.append(NotApplicable(network.folder, protocol.name, reason))
                continue
            tasks.append(_task(config, one, network, (more_settings or {}).get(protocol.name, {})))
    return Plan(tuple(tasks), tuple(networks), missing, tuple(excluded))


def why_not(assigned: Assigned, network: EvaluatedNetwork) -> str:
    """Why a network cannot run a protocol; empty if it can.

    >>> from msbreg.backbones.spec import BackboneSpec
    >>> from transfer.orchestration.protocols import PROTOCOLS
    >>> vit = EvaluatedNetwork("pretrained", "dino.pth", 0, BackboneSpec("vit_small_patch16"))
    >>> detection = next(p for p in PROTOCOLS if p.script == "detection")
    >>> why_not(Assigned(detection, "digits", None), vit)
    'vit_small_patch16 is not a ResNet'
    """
    script, spec = assigned.protocol.script, network.spec
    if script in RESNETS_ONLY and no_resnet(spec.arch):
        return f"{spec.arch} is not a ResNet"
    if script == "detection":
        return no_small_stem(spec)
    return ""


def _task(
    config: Config, assigned: Assigned, network: EvaluatedNetwork, more: Mapping[str, Any]
) -> Task:
    protocol = assigned.protocol
    build = _detection if protocol.script == "detection" else _configured
    settings, card = build(assigned, network, more)
    output = config.folder / network.folder / protocol.name
    changes = {"output": output, "finished": "skip", "device": config.device} | _network(
        config, assigned, network
    )
    if config.workers is not None:
        changes["workers"] = config.workers
    if protocol.script == "robustness":
        changes["probe"] = config.folder / network.folder / "linear"
    complete = dataclasses.replace(settings, **changes)
    overrides = differences(plain(complete), plain(settings))
    return Task(
        network.folder,
        protocol.name,
        protocol.script,
        complete,
        dataclasses.replace(card, overrides=card.overrides | overrides),
        tuple(f"{network.folder}/{name}" for name in protocol.needs),
    )


def _network(config: Config, assigned: Assigned, network: EvaluatedNetwork) -> dict[str, Any]:
    """The settings of the network and the data."""
    detection = assigned.protocol.script == "detection"
    data: dict[str, Any] = {"data": assigned.data}
    if detection:
        data = {} if assigned.data == DIGITS else {"data": Path(assigned.data)}
    of_file = {
        "encoder": config.encoder,
        "family": config.family,
        "trust_pickle": config.trust_pickle,
    }
    found = data | {"checkpoint": network.checkpoint, "seed": network.seed, "name": network.name}
    if not network.untrained:
        return found | of_file
    return found if detection else found | of_file | {"twin_of": network.twin_of}


def _configured(
    assigned: Assigned, network: EvaluatedNetwork, more: Mapping[str, Any]
) -> tuple[Any, Card]:
    """The settings of a script other than detection, and their card."""
    script = assigned.protocol.script
    kind = script_module(script).Config
    base = read_card(kind, assigned.card) if assigned.card else kind()
    changes: dict[str, Any] = {
        name: value
        for name, value in assigned.splits.items()
        if hasattr(base, name) and getattr(base, name) == getattr(kind(), name)
    }
    if assigned.data != DIGITS:
        changes |= assigned.protocol.settings
    if script == "dense_knn" and not is_resnet(network.spec.arch):
        changes["output_stride"] = None  # only ResNets can be dilated
    settings = changed(base, changes | dict(more))
    name = assigned.card.stem if assigned.card else Card().name
    return settings, Card(name, differences(plain(settings), plain(base)))


def _detection(
    assigned: Assigned, network: EvaluatedNetwork, more: Mapping[str, Any]
) -> tuple[Any, Card]:
    """The settings of a detector, whose yaml is changed to the backbone if necessary."""
    assert assigned.card is not None
    backbone = settings_of_backbone(read_config(assigned.card), network.spec)
    pairs = {key: str(value) for key, value in (backbone | dict(more)).items()}
    settings = script_module("detection").Config(
        config=assigned.card,
        overrides=tuple(word for pair in pairs.items() for word in pair),
    )
    return settings, Card(assigned.card.stem, dict(pairs))


def changed(settings: Any, changes: Mapping[str, Any]) -> Any:
    """A frozen config with other values, by dotted name.

    Raises:
        UserError: a value is invalid.

    >>> from transfer.segmenters.segmentation_config import Config as Segmentation
    >>> changed(Segmentation(), {"solver.iterations": 3, "workers": 0}).solver.iterations
    3
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        first, _, rest = name.partition(".")
        groups.setdefault(first, {})[rest] = value
    values = {
        name: group[""] if "" in group else changed(getattr(settings, name), group)
        for name, group in groups.items()
    }
    try:
        return dataclasses.replace(settings, **values)
    except TypeError as error:
        raise UserError(f"{type(settings).__name__}: {error}") from error
