"""Published scores as rows of leaderboards, with what is known of the difference between the protocols."""

import math
from collections.abc import Sequence
from dataclasses import replace

from transfer.published.published_numbers import Published
from transfer.published.result_tables import backbone_name
from transfer.published.task_matching import baselines_of, protocol_differences, task_of
from transfer.report.collection import Network
from transfer.report.exports.score_rows import ScoreRow, score_rows
from transfer.report.leaderboard import Reference, References
from transfer.report.overview.published_beside import settings_of_run
from transfer.report.score_tables import Column


def references(networks: Sequence[Network]) -> dict[tuple[Column, str], References]:
    """The published scores that answer each column, of our architectures if there are such.

    The keys have the variant of the protocol, which decides what is said of the difference between protocols.
    """
    backbones = {backbone_name(network.arch).partition(",")[0] for network in networks}
    found: dict[tuple[Column, str], References] = {}
    for row in score_rows([network for network in networks if not network.random]):
        key = row.column, row.variant
        if key not in found and (published := _references(row, backbones)):
            found[key] = published
    return found


def _references(row: ScoreRow, backbones: set[str]) -> References | None:
    run, first = row.found[0]
    score = replace(first, value=row.entry.mean, stderr=None)
    if not math.isfinite(score.value) or task_of(score) is None:
        return None
    settings = settings_of_run(run)
    baselines = baselines_of(score, settings)
    if not baselines:
        return None
    same = [one for one in baselines if one.backbone in backbones]
    scores = tuple(Reference(_label(one), one.score.value) for one in same or baselines)
    return References(scores, protocol_differences(score, settings))


def _label(one: Published) -> str:
    parts = [one.label, one.backbone]
    parts += [f"{one.epochs} epochs"] if one.epochs else []
    return f"{', '.join(filter(None, parts))} [{one.source}, {one.table}]"
