"""The model card of a published backbone, in Markdown: everything that its scores depend on."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from msbreg.checkpoints.convert.citations import CITATIONS
from msbreg.checkpoints.convert.to_torchvision import snippet
from msbreg.run.config import flat

Card = Callable[[dict[str, Any], dict[str, Any], str], str]
"""Provenance, certificate and file name -> Markdown."""


@dataclass(frozen=True)
class Score:
    """A score from a completed evaluation of these weights.

    Attributes:
        metric: name of the metric, such as ``kNN top-1, k = 20``.
        data: test data.
        value: score in percent.
        stderr: standard error over the test images, in percent; None if undefined.
        protocol: digest of the settings.
    """

    metric: str
    data: str
    value: float
    stderr: float | None
    protocol: str


@dataclass(frozen=True)
class Training:
    """How our own pre-training produced the weights, from its record.

    Attributes:
        command: command line.
        card: name of the config.
        commit: commit of the code.
        settings: resolved settings.
    """

    command: str
    card: str
    commit: str
    settings: dict[str, Any]


def model_card(
    provenance: dict[str, Any],
    certificate: dict[str, Any],
    file: str,
    *,
    scores: tuple[Score, ...] = (),
    training: Training | None = None,
) -> str:
    """The card as Markdown; unknown facts are listed as not recorded."""
    details = provenance["details"]
    method = str(details.get("method", provenance["family"]))
    normalization = provenance["normalization"]
    place = {"3x3": "3x3 (v1.5)", "1x1": "first 1x1 (v1)"}[provenance["stride"]]
    side = provenance["image_size"]
    lines = [
        f"# {provenance['arch']} backbone, {method}",
        "",
        f"`{file}` contains the {provenance['tensors']} tensors of the backbone under torchvision's names, "
        "without projector, predictor or classifier.",
        "",
        "## Use",
        "",
        "```python",
        *snippet(file).splitlines(),
        "```",
        "",
        f"- Input: {normalization['channels']} images / 255, mean {normalization['mean']}, "
        f"std {normalization['std']}",
        f"- Stride 2 of bottlenecks: in the {place} convolution",
        f"- Pre-trained on views of {side} pixels"
        if side
        else "- Size of the pre-training views: not recorded",
        "",
        "## How it was trained",
        "",
        *_training(details, training),
        "",
        "## Scores",
        "",
        *_scores(scores),
        "",
        "## Origin",
        "",
        f"- Source: `{provenance['source']}`, layout {provenance['family']}, {provenance['encoder']}",
        f"- sha256 of the source: `{provenance['sha256']}`",
        f"- sha256 of this file: `{certificate['sha256'][file]}`",
        f"- Read back on {certificate['date']}: largest relative difference of a stage in "
        f"float64 {largest_error(certificate):.1e} (`{file}.certificate.json`)",
        *(f"- Note: {note}" for note in provenance["notes"]),
        *(f"- Warning: {warning}" for warning in provenance["warnings"]),
        "",
        "## Citation",
        "",
        *_citation(method),
        "",
    ]
    return "\n".join(lines)


def largest_error(certificate: dict[str, Any]) -> float:
    """Largest relative difference over all readers and stages, in float64."""
    return max(
        error["relative"]
        for reading in certificate["readings"]
        for stages in reading["errors"].values()
        for error in stages.values()
    )


def _training(details: dict[str, Any], training: Training | None) -> list[str]:
    lines = [f"- {name}: {value}" for name, value in flat(details).items()]
    if training is None:
        return lines or ["Not recorded in the source; ask its authors."]
    settings = json.dumps(training.settings, indent=2)
    return [
        *lines,
        f"- command: `{training.command}`",
        f"- card: {training.card}",
        f"- commit: {training.commit}",
        "",
        "<details><summary>All settings</summary>",
        "",
        "```json",
        settings,
        "```",
        "",
        "</details>",
    ]


def _scores(scores: tuple[Score, ...]) -> list[str]:
    if not scores:
        return ["No evaluation of these weights is recorded."]
    rows = [
        f"| {s.metric} | {s.data} | {s.value:.1f}"
        + (f" ± {s.stderr:.1f}" if s.stderr is not None else "")
        + f" | `{s.protocol}` |"
        for s in scores
    ]
    return [
        "| Protocol | Data | Score, percent | Settings |",
        "|:---|:---|---:|:---|",
        *rows,
        "",
        "±: standard error over the test images, for this one network.",
    ]


def _citation(method: str) -> list[str]:
    if method in CITATIONS:
        return ["```bibtex", CITATIONS[method], "```"]
    return [f"Cite the authors of {method}."]
