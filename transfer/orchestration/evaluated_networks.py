"""The networks of a suite: the checkpoints, each with a folder of its own, and their untrained twins."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from msbreg.backbones.spec import BackboneSpec, Provenance
from msbreg.checkpoints.load import load_backbone
from msbreg.run.errors import UserError
from transfer.orchestration.suite_config import Config

PRETRAINED = "pretrained"
RANDOM = "random"
# File names that say nothing about the network: its folder is the label.
_COMMON_NAMES = frozenset(
    {"checkpoint", "model", "model_final", "last", "best", "final", "weights"}
)
_TAKEN = re.compile(r"random.*|report|set-aside|jobs|pretrained")


@dataclass(frozen=True)
class EvaluatedNetwork:
    """One network of a suite.

    Attributes:
        folder: name of the folder of its runs, below that of the suite.
        checkpoint: the file, or ``random``.
        seed: of the runs; that of pre-training if it is known, or of the twin's weights.
        spec: architecture and input.
        twin_of: for an untrained twin, the checkpoint whose architecture and input it has.
        name: in tables; empty for the usual one, which seeds of one network share.
    """

    folder: str
    checkpoint: str
    seed: int
    spec: BackboneSpec
    twin_of: Path | None = None
    name: str = ""

    @property
    def untrained(self) -> bool:
        """Whether it is an untrained twin."""
        return self.twin_of is not None


def evaluated_networks(config: Config, checkpoints: Sequence[Path]) -> list[EvaluatedNetwork]:
    """The checkpoints, then the twins of each architecture and input; reads the checkpoints.

    Raises:
        UserError: a checkpoint cannot be read, or two contain the same weights.
    """
    read = [(path, _provenance(config, path)) for path in checkpoints]
    _check_different(read)
    # The epochs of a watched run are one network in tables, and always have folders of their own.
    several = len(read) > 1 and config.watch is None
    names = [PRETRAINED] if len(read) == 1 and config.watch is None else labels(checkpoints)
    seeds = seeds_of_one_network([of for _, of in read])
    networks = [
        EvaluatedNetwork(
            name,
            str(path),
            of.details.get("seed", 0),
            of.spec,
            name=name if several and not is_seed else "",
        )
        for name, (path, of), is_seed in zip(names, read, seeds, strict=True)
    ]
    twins: dict[BackboneSpec, Path] = {}
    for path, of in read:
        twins.setdefault(of.spec, path)
    stems = _twin_names(list(twins)) if several else [RANDOM]
    count = max(config.random_seeds, config.random_fine_tuned)
    for (spec, path), stem in zip(twins.items(), stems, strict=True):
        networks += [
            EvaluatedNetwork(f"{stem}-{seed}", RANDOM, seed, spec, twin_of=path)
            for seed in range(count)
        ]
    return networks


def seeds_of_one_network(read: Sequence[Provenance]) -> list[bool]:
    """Whether each checkpoint differs from another one in its seed only, and so is one row in tables with it.

    If two of the same recipe share a seed, or have none, something else differs: they are different networks.
    """
    recipes = [
        repr((of.spec, of.family, of.encoder, sorted((of.details | {"seed": None}).items())))
        for of in read
    ]
    seeds: dict[str, list[object]] = {}
    for recipe, of in zip(recipes, read, strict=True):
        seeds.setdefault(recipe, []).append(of.details.get("seed"))
    return [
        len(seeds[recipe]) == len(set(seeds[recipe])) > 1 and None not in seeds[recipe]
        for recipe in recipes
    ]


def _provenance(config: Config, path: Path) -> Provenance:
    _, provenance = load_backbone(
        path.expanduser(),
        encoder=config.encoder,
        family=config.family,
        trust_pickle=config.trust_pickle,
    )
    return provenance


def _check_different(read: Sequence[tuple[Path, Provenance]]) -> None:
    known: dict[str, Path] = {}
    for path, of in read:
        if of.sha256 in known:
            raise UserError(
                f"{known[of.sha256]} and {path} have the same content; expected different checkpoints"
            )
        known[of.sha256] = path


def labels(checkpoints: Sequence[Path]) -> list[str]:
    """A unique folder name for each checkpoint: its file name, or its folder's if that says nothing.

    >>> labels([Path("runs/msbreg/checkpoint.pth"), Path("runs/byol/checkpoint.pth"), Path("dino.pth")])
    ['msbreg', 'byol', 'dino']
    >>> labels([Path("a/ours/checkpoint.pth"), Path("b/ours/checkpoint.pth")])
    ['a-ours', 'b-ours']
    """
    found: list[str] = []
    for length in range(1, 4):
        found = [_label(path, length) for path in checkpoints]
        if len(set(found)) == len(found):
            return found
    return [f"{name}-{number}" for number, name in enumerate(found, 1)]


def _label(path: Path, length: int) -> str:
    """The last ``length`` parts of a path that say something, joined by hyphens."""
    parts = [part for part in path.expanduser().absolute().parts[1:-1] if part not in ("", ".")]
    stem = path.name.partition(".")[0]
    if stem.lower() not in _COMMON_NAMES or not parts:
        parts.append(stem)
    name = "-".join(parts[-length:])
    name = re.sub(r"[^A-Za-z0-9._+=-]", "_", name).lstrip(".") or "checkpoint"
    return f"checkpoint-{name}" if _TAKEN.fullmatch(name) else name


def _twin_names(specs: Sequence[BackboneSpec]) -> list[str]:
    """A unique stem of folder names for the twins of each architecture and input, in any order of these.

    >>> specs = [BackboneSpec("resnet50", stride_in_1x1=stride) for stride in (False, True)]
    >>> names = _twin_names(specs)
    >>> len(set(names)), _twin_names(specs[::-1]) == names[::-1]
    (2, True)
    """
    stems = [re.sub(r"[^A-Za-z0-9.-]", "_", f"{RANDOM}-{s.arch}-{s.image_size}") for s in specs]
    return [
        stem if stems.count(stem) == 1 else f"{stem}-{_digest(spec)}"
        for stem, spec in zip(stems, specs, strict=True)
    ]


def _digest(spec: BackboneSpec) -> str:
    return hashlib.sha256(repr(spec).encode()).hexdigest()[:6]
