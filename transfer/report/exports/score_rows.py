"""All scores of a collection, one row per network and score, for the files that programs read.

Unlike the tables of the page, the rows are never truncated and never rounded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transfer.report.collection import Network, seed_of
from transfer.report.runs import Run
from transfer.report.score_tables import Column, Entry, Values, entry
from transfer.scoring.scores import Score


@dataclass(frozen=True)
class ScoreRow:
    """The mean of one score of one network by one protocol.

    Attributes:
        entry: mean and spread over the runs.
        images: number of scored images.
        found: the runs and their scores, in the order in which they were started.
    """

    network: Network
    column: Column
    entry: Entry
    images: int
    found: tuple[tuple[Run, Score], ...]

    @property
    def digest(self) -> str:
        """The digest of the protocol, which all runs share."""
        return self.found[0][0].digest

    @property
    def variant(self) -> str:
        """Equal for two rows exactly if their protocols, transforms and images are equal."""
        return self.found[0][0].variant

    @property
    def transform(self) -> dict[str, Any]:
        """The evaluation transform, which all runs share."""
        return self.found[0][0].transform

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprint of each split, which all runs share."""
        return self.found[0][0].images

    @property
    def seeds(self) -> list[str]:
        """The known pre-training seeds, each once."""
        return list(dict.fromkeys(s for run, _ in self.found if (s := seed_of(run))))

    @property
    def weights(self) -> list[str]:
        """The sha256 of each set of weights, each once."""
        return list(dict.fromkeys(sha256_of(run) for run, _ in self.found))

    def per_class(self) -> dict[str, float]:
        """Mean over the networks of each class's score; empty if there are none."""
        values: dict[str, Values] = {}
        for run, score in self.found:
            for name, value in (score.per_class or {}).items():
                of_weights = values.setdefault(name, {}).setdefault(sha256_of(run), [])
                of_weights.append((value, None))
        return {name: entry(of_class).mean for name, of_class in values.items()}


def sha256_of(run: Run) -> str:
    """The sha256 of the evaluated weights."""
    assert run.network is not None
    return str(run.network["sha256"])


def score_rows(networks: Sequence[Network]) -> list[ScoreRow]:
    """The rows, by network and then in the order of the runs.

    Scores share a row if their network, column, protocol, transform and images are equal.
    """
    rows = []
    for network in networks:
        groups: dict[tuple[Column, str], list[tuple[Run, Score]]] = {}
        for run in sorted(network.runs, key=lambda run: run.started):
            for score in run.scores:
                groups.setdefault((Column.of(score), run.variant), []).append((run, score))
        rows += [_row(network, column, found) for (column, _), found in groups.items()]
    return rows


def _row(network: Network, column: Column, found: list[tuple[Run, Score]]) -> ScoreRow:
    values: Values = {}
    for run, score in found:
        values.setdefault(sha256_of(run), []).append((score.value, score.stderr))
    return ScoreRow(network, column, entry(values), found[0][1].n, tuple(found))
