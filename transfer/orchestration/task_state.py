"""Whether a task is done, from its record: the same weights, the same settings and the same data.

A record that says ``done`` counts only if all three agree with what would run now. A folder that contains
anything else must be moved aside before the task runs: results of two runs are never mixed.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from msbreg.backbones.spec import BackboneSpec, Provenance
from msbreg.backbones.twin import random_backbone
from msbreg.checkpoints.load import file_sha256, load_backbone
from msbreg.data.segmentation.digit_depths import open_depths
from msbreg.data.segmentation.label_maps import survey
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.data.sources import open_source
from msbreg.run.config import plain
from msbreg.run.errors import UserError
from msbreg.run.job import LOG_NAME
from msbreg.run.record import FILE_NAME, changed_settings, read_record
from transfer.detectors import engine as detector_engines
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.splits import data_of
from transfer.detectors.start import spec_of_yaml
from transfer.frozen.linear_probe import load_probe
from transfer.gating.gate_bank import training_split
from transfer.orchestration.task import Task, script_module
from transfer.segmenters import segmenter_engine
from transfer.verdicts.outcomes import load_outcomes

# Where things are and how they are computed; what they contain is compared instead.
_PLACES = frozenset({"checkpoint", "twin_of", "data", "probe", "compile", "family", "image_size"})

State = Literal["done", "new", "unfinished", "stale"]


@dataclass(frozen=True)
class Standing:
    """What the folder of a task contains.

    Attributes:
        state: done: the completed run; new: nothing; unfinished: a run with the same settings, to continue or
            to start over; stale: something else, which must be moved aside.
        reason: for stale, what it is or what has changed.
    """

    state: State
    reason: str = ""


def standing(task: Task) -> Standing:
    """What the folder of a task contains. Opens the data, but decodes no image."""
    try:
        record = read_record(task.folder)
    except UserError as error:
        return Standing("stale", str(error).partition("\n")[0])
    if record is None:
        return _without_record(task.folder)
    if record["kind"] != task.script:
        return Standing("stale", f"it contains a run of {record['kind']}, not of {task.script}")
    config = recorded_config(task)
    if record["status"] != "done":
        changes = [*_changed_inputs(task, record), *_changed_data(task, record)]
        if settings := changed_settings(config, record):
            changes.append(f"the settings ({settings})")
        if changes:
            return Standing("stale", f"it is unfinished, and different: {', '.join(changes)}")
        return Standing("unfinished")
    changes = list(_changes(task, config, record))
    if not changes:
        return _with_outcomes(task.folder)
    old = " (a record of schema 1, of an earlier version)" if record["schema"] == 1 else ""
    return Standing("stale", f"changed since then{old}: {', '.join(changes)}")


def _with_outcomes(folder: Path) -> Standing:
    """A completed run is done, unless what its scores were computed from cannot be read."""
    try:
        load_outcomes(folder)
    except UserError as error:
        return Standing("stale", str(error).partition("\n")[0])
    return Standing("done")


def _without_record(folder: Path) -> Standing:
    """A folder without a record is new, unless it contains files of an earlier run."""
    if not folder.is_dir():
        return Standing("new")
    left = sorted(p.name for p in folder.iterdir() if p.name != LOG_NAME and p.name[0] != ".")
    if not left:
        return Standing("new")
    shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
    return Standing("stale", f"{FILE_NAME} is missing, but there are other files ({shown})")


def recorded_config(task: Task) -> Any:
    """The config as the script puts it into its record, with the engine that would be chosen now.

    Raises:
        UserError: an engine that was asked for cannot be used.
    """
    if task.script == "segmentation":
        chosen = segmenter_engine.choose(task.config.engine, task.config.network)
        return dataclasses.replace(task.config, engine=chosen.name)
    if task.script == "detection":
        settings = read_config(task.config.config, task.config.overrides)
        return task.config.resolved(settings, detector_engines.choose(task.config.engine).name)
    return task.config


def _changes(task: Task, config: Any, record: Mapping[str, Any]) -> Iterator[str]:
    """What differs from a completed run, in words."""
    network = record.get("network") or {}
    if network.get("sha256") != expected_weights(task):
        yield "the weights"
    elif task.config.checkpoint == "random" and task.script != "detection":
        spec = plain(_spec_of(task.config).as_dict())
        if any(network.get(name, value) != value for name, value in spec.items()):
            yield "the input of the network"
    if "probe" in record.get("inputs", {}) and record["inputs"]["probe"] != _probe(task):
        yield "the linear probe"
    if settings := changed_settings(config, record, _PLACES):
        yield f"the card ({settings})"
    yield from _changed_data(task, record)


# ---- Weights


def expected_weights(task: Task) -> str:
    """The sha256 that the record of a task states: of the checkpoint file, or of the twin's tensors."""
    config = task.config
    if config.checkpoint != "random":
        return _file_digest(Path(config.checkpoint).expanduser())
    if task.script == "detection":
        return _twin_digest(spec_of_yaml(read_config(config.config, config.overrides)), config.seed)
    return _twin_digest(_spec_of(config), config.seed)


def _spec_of(config: Any) -> BackboneSpec:
    """Architecture and input of the checkpoint of an untrained twin."""
    path = Path(config.twin_of).expanduser()
    choice = (config.encoder, config.family, config.trust_pickle)
    return _provenance(path, path.stat().st_mtime_ns, *choice).spec


@functools.lru_cache(maxsize=64)
def _provenance(
    path: Path, changed: int, encoder: str | None, family: str | None, trust_pickle: bool
) -> Provenance:
    _, provenance = load_backbone(path, encoder=encoder, family=family, trust_pickle=trust_pickle)
    return provenance


@functools.lru_cache(maxsize=64)
def _twin_digest(spec: BackboneSpec, seed: int) -> str:
    _, provenance = random_backbone(spec, seed=seed)
    return provenance.sha256


def _file_digest(path: Path) -> str:
    state = path.stat()
    return _digest_of_state(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _digest_of_state(path: Path, size: int, changed: int) -> str:
    return file_sha256(path)


def _probe(task: Task) -> str:
    """The digest of the probe that would be used now; empty if there is none."""
    try:
        return load_probe(task.config.probe.expanduser())[1]
    except UserError:
        return ""


def _changed_inputs(task: Task, record: Mapping[str, Any]) -> Iterator[str]:
    """Input files of an unfinished run that have another content now."""
    before = record.get("inputs", {})
    for name in ("checkpoint", "twin_of"):
        value = getattr(task.config, name, None)
        if value is None or str(value) == "random" or name not in before:
            continue
        if before[name] != _file_digest(Path(value).expanduser()):
            yield "the weights"
    if "probe" in before and before["probe"] != _probe(task):
        yield "the linear probe"


# ---- Data


def _changed_data(task: Task, record: Mapping[str, Any]) -> Iterator[str]:
    """Splits of a record whose images are others now, or that cannot be opened any more."""
    data = record.get("data") or {}
    if not data and record["status"] == "done":
        yield "the data (the record does not state them)"
    for split, facts in data.items():
        if not isinstance(facts, Mapping) or "fingerprint" not in facts:
            yield f"the data (the record has no fingerprint of {split})"
            continue
        try:
            found = fingerprint(task, split, facts)
        except UserError as error:
            reason = str(error).partition("\n")[0]
            yield f"the data ({split} cannot be opened: {reason})"
            continue
        if found != facts["fingerprint"]:
            yield f"the data (other images in {split})"


def fingerprint(task: Task, split: str, facts: Mapping[str, Any]) -> str:
    """The fingerprint of one split of the data of a task as they are now.

    Args:
        facts: what the record says about the split.

    Raises:
        UserError: the split cannot be opened.
    """
    if task.script == "detection":
        config = task.config
        return _scene_fingerprints(config.config, config.overrides, config.data)[split]
    data = str(task.config.data)
    if task.script in ("segmentation", "dense_knn"):
        return _map_fingerprint(data, split, facts.get("images"))
    if task.script == "depth":
        return _depth_fingerprint(data, split)
    if task.script == "gate":
        layout, _ = training_split(data, split)
        return _image_fingerprint(data, split, layout)
    if task.script == "robustness":
        layout, root = script_module("robustness").variant_layout(data)
        return _image_fingerprint(f"{layout}:{root}", split, layout)
    return _image_fingerprint(data, split, "voc" if task.script == "svm" else "folder")


@functools.lru_cache(maxsize=512)
def _image_fingerprint(data: str, split: str, layout: str) -> str:
    return open_source(data, split, layout=layout).fingerprint


@functools.lru_cache(maxsize=64)
def _map_fingerprint(data: str, split: str, images: int | None) -> str:
    """A record covers the images with a labeled pixel; the maps are read only if some were left out."""
    source = open_label_maps(data, split)
    if len(source) == images:
        return source.fingerprint
    void = survey(source).void
    return source.subset(np.setdiff1d(np.arange(len(source)), void)).fingerprint


@functools.lru_cache(maxsize=64)
def _depth_fingerprint(data: str, split: str) -> str:
    return open_depths(data, split).fingerprint


@functools.lru_cache(maxsize=16)
def _scene_fingerprints(
    card: Path, overrides: tuple[str, ...], data: Path | None
) -> dict[str, str]:
    described = data_of(read_config(card, overrides), data, train=True).described()
    return {split: facts["fingerprint"] for split, facts in described.items()}


def forget_data() -> None:
    """Read the data again at the next question: they may have changed since the last one."""
    for known in (_image_fingerprint, _map_fingerprint, _depth_fingerprint, _scene_fingerprints):
        known.cache_clear()
