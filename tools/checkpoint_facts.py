"""Collect facts about a checkpoint file as plain values, for inspect_checkpoint.py."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from msbreg.backbones.resnet import build_backbone
from msbreg.backbones.spec import describe_input
from msbreg.backbones.trained import (
    NormLayer,
    feature_statistics,
    norm_layers,
    photographs,
    side_for,
    signs_in_features,
    signs_of_no_training,
)
from msbreg.backbones.vit_architectures import TIMM, is_resnet
from msbreg.checkpoints.convert.to_detectron2 import DETECTRON2
from msbreg.checkpoints.layouts import FORMATS
from msbreg.checkpoints.layouts.match import INSPECT_HINT, Match, contents, identify
from msbreg.checkpoints.layouts.tensors import groups
from msbreg.checkpoints.load import load_exactly
from msbreg.checkpoints.read import FileContent, read_file
from msbreg.checkpoints.read.inert import Inert, plain
from msbreg.run.errors import UserError

Facts = dict[str, Any]
MAX_GROUPS = 12  # groups of keys listed per entry
MAX_LEAVES, MAX_DEPTH = 20_000, 12


@dataclass(frozen=True)
class Request:
    """The file to inspect, and the user's options for loading it; None means not given."""

    path: Path
    encoder: str | None = None
    family: str | None = None
    arch: str | None = None
    trust_pickle: bool = False
    features: bool = True


def facts_of(request: Request) -> Facts:
    """Everything that ``--json`` prints; a non-empty ``error`` says why it is incomplete."""
    facts: Facts = {"error": "", "verdict": "not loadable"}
    try:
        if request.arch is not None and request.arch.startswith(TIMM):
            raise UserError(f"--arch is {request.arch}; this tool shows the layouts of --list only")
        file = read_file(request.path, trust_pickle=request.trust_pickle)
        facts["file"] = _file(file)
        try:
            match = identify(
                file, arch=request.arch, encoder=request.encoder, family=request.family
            )
        except UserError:
            facts |= _inside(file)
            raise
        facts["layout"] = _layout(match)
        facts["dropped"] = list(_dropped(match))
        resnet = is_resnet(match.spec.arch)
        if resnet:
            facts["norms"] = _norms(norm_layers(match.state))
        facts["signs"] = list(signs_of_no_training(match.state))
        if request.features and resnet:  # the bounds of random features are those of ResNets
            facts["features"], signs = _features(match, request.path)
            facts["signs"] += signs
    except UserError as error:
        # Some messages end by recommending this very command.
        facts["error"] = str(error).removesuffix("\n" + INSPECT_HINT.format(path=request.path))
        return facts
    facts["verdict"] = "not trained" if facts["signs"] else "trained"
    facts["next"] = [] if facts["signs"] else list(_next(request, match))
    return facts


def families() -> list[dict[str, str]]:
    """FORMATS as one dict of strings per row."""
    return [
        {
            "family": row.name,
            "covers": row.covers,
            "encoder": row.encoders[0].name,
            "input": describe_input(row.normalization),
            "source": row.source,
        }
        for row in FORMATS
    ]


def _file(file: FileContent) -> Facts:
    return {
        "path": str(file.path),
        "container": file.container,
        "bytes": file.path.stat().st_size,
        "sha256": file.sha256,
        "stubbed": list(file.stubbed),
    }


def _layout(match: Match) -> Facts:
    return {
        "family": match.row.name,
        "covers": match.row.covers,
        "source": match.row.source,
        "encoder": match.encoder.name,
        "why": match.row.why,
        "present": list(match.present),
        "arch": match.spec.arch,
        "tensors": match.tensor_count,
        "normalization": asdict(match.spec.normalization),
        **({"stride": match.spec.stride} if is_resnet(match.spec.arch) else _positions(match)),
        "notes": list(match.notes),
    }


def _positions(match: Match) -> Facts:
    return {"positions": match.spec.positions, "image_size": match.spec.image_size}


def _dropped(match: Match) -> Iterator[Facts]:
    for reason, keys in match.dropped.items():
        for group, own in groups(list(keys)).items():
            yield {"reason": reason, "keys": group, "count": len(own), "example": own[0]}


def _norms(layers: list[NormLayer]) -> Facts:
    batches = [layer.batches for layer in layers if layer.batches is not None]
    return {
        "layers": len(layers),
        "affine_initial": sum(layer.affine for layer in layers),
        "mean_initial": sum(layer.mean for layer in layers),
        "var_initial": sum(layer.variance for layer in layers),
        "batches": [min(batches), max(batches)] if batches else [],
    }


def _features(match: Match, path: Path) -> tuple[Facts, tuple[str, ...]]:
    own, twin = build_backbone(match.spec), build_backbone(match.spec, seed=0)
    load_exactly(own, match.state, path)
    images = photographs(side_for(own))
    found = feature_statistics(own, images, match.spec.normalization)
    random = feature_statistics(twin, images, match.spec.normalization)
    return {"own": asdict(found), "random_twin": asdict(random)}, signs_in_features(found, random)


def _next(request: Request, match: Match) -> Iterator[str]:
    path = shlex.quote(str(request.path))
    selected = {"encoder": request.encoder, "family": request.family}
    options = "".join(f" --{k} {shlex.quote(v)}" for k, v in selected.items() if v)
    options += " --trust-pickle" if request.trust_pickle else ""
    yield f"python transfer/knn.py --checkpoint {path}{options}"
    if not is_resnet(match.spec.arch):
        return
    to = " --to safetensors" if DETECTRON2.refusal(match.spec) else ""
    yield f"python tools/convert_to_d2.py {path}{options}{to}"


def _inside(file: FileContent) -> Facts:
    """Entries and groups of keys of a file whose layout is unknown."""
    try:
        content: Any = contents(file)
    except UserError:
        content = plain(file.content)
    if not isinstance(content, Mapping):
        return {
            "entries": [{"entry": "", "is": _kind(content)}],
            "keys": list(_keys("", content, set())),
        }
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    others = {str(k): v for k, v in content.items() if not isinstance(v, Tensor)}
    entries = [{"entry": name, "is": _kind(value)} for name, value in others.items()]
    seen: set[int] = set()
    entries_and_top = {"": tensors, **others}.items()
    keys = [row for name, value in entries_and_top for row in _keys(name, value, seen)]
    return {"entries": entries, "keys": keys}


def _keys(entry: str, value: Any, seen: set[int]) -> Iterator[Facts]:
    leaves = _leaves(value, seen)
    grouped = groups(list(leaves), 2)
    if len(grouped) > MAX_GROUPS:
        grouped = groups(list(leaves), 1)
    for index, (group, names) in enumerate(grouped.items()):
        row = {"entry": entry, "keys": group, "count": len(names), "example": names[0]}
        row["is"] = _kind(leaves[names[0]])
        if index == MAX_GROUPS:
            rest = sum(map(len, list(grouped.values())[MAX_GROUPS:]))
            row = {"entry": entry, "keys": "...", "count": rest, "example": "", "is": ""}
        yield row
        if index == MAX_GROUPS:
            return


def _leaves(value: Any, seen: set[int]) -> dict[str, Tensor]:
    """Tensors inside a value, by keys and indices joined with dots.

    At most MAX_LEAVES tensors are listed, and none deeper than MAX_DEPTH.

    Args:
        seen: ids of the containers listed so far; updated here. A pickle of 6 kB can refer to the same
            few dicts along billions of paths; each is listed once.
    """
    found: dict[str, Tensor] = {}

    def visit(value: Any, path: str, depth: int) -> None:
        if isinstance(value, Tensor):
            found[path] = value
        if depth == MAX_DEPTH or id(value) in seen or not isinstance(value, (Mapping, list, tuple)):
            return
        seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, inner in items:
            if len(found) >= MAX_LEAVES:
                return
            visit(inner, f"{path}.{key}" if path else str(key), depth + 1)

    visit(value, "", 0)
    return found


def _kind(value: Any) -> str:
    """Type and size, or the value itself if it is short."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, (Mapping, list, tuple, set)):
        return f"{type(value).__name__} of {len(value)}"
    if isinstance(value, (str, int, float, bool)) or value is None:
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:36]} ..."
    return repr(value) if isinstance(value, Inert) else type(value).__name__
