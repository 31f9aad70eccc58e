"""Verdicts of the gate (transfer/gate.py): whether a network learned anything, and why."""

from dataclasses import dataclass

from transfer.report.collection import Collection


@dataclass(frozen=True)
class Gate:
    """The verdict on one network (learned, not learned, unclear), and its reasons, the decisive one first."""

    network: str
    verdict: str
    reasons: tuple[str, ...]

    @property
    def warning(self) -> str:
        """What a reader of the network's scores should know; empty if it has learned."""
        if self.verdict == "learned":
            return ""
        reason = f": {self.reasons[0]}" if self.reasons else ""
        return f"First look (gate): {self.network} {_WORDS.get(self.verdict, self.verdict)}{reason}"


_WORDS = {"not learned": "has not learned", "unclear": "is unclear"}


def gates(collection: Collection) -> list[Gate]:
    """The verdicts of the gate on trained networks, once per network and verdict."""
    labels = {
        str(run.folder): network.label for network in collection.networks for run in network.runs
    }
    found = []
    for run in [*collection.evaluations, *collection.others]:
        assert run.network is not None
        if run.gate is not None and run.network["family"] != "random":
            label = labels.get(str(run.folder), str(run.network["name"])[:80])
            found.append(Gate(label, *run.gate))
    return list(dict.fromkeys(found))
