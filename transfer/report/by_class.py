"""Average precision of each class, of SVMs and of detectors."""

from collections.abc import Iterable
from dataclasses import dataclass

from transfer.report.collect import Network
from transfer.report.run_files import read_per_class
from transfer.report.runs import Run, is_number
from transfer.report.tables import Entry, Values, entry, variant

_NUMBERS = {"svm": ("AP",), "detection": ("AP50", "AP")}


@dataclass(frozen=True)
class PerClass:
    """One table.

    Attributes:
        kind: svm or detection.
        what: box or mask; empty for images.
        data: names of the data.
        protocol: its digest.
        fingerprints: of the data.
        networks: labels; each has a column for every one of ``numbers``.
        rows: class -> an entry for each of these columns.
        missing: why runs are left out, in words.
    """

    kind: str
    what: str
    data: str
    protocol: str
    fingerprints: str
    networks: list[str]
    numbers: tuple[str, ...]
    rows: dict[str, list[Entry | None]]
    missing: list[str]


def per_class_tables(networks: Iterable[Network]) -> list[PerClass]:
    """One table for each set of images and variant of the protocol; for masks one of their own."""
    groups: dict[tuple[str, str, str], dict[str, list[Run]]] = {}
    for network in networks:
        for run in network.runs:
            if run.kind in _NUMBERS:
                group = groups.setdefault((run.kind, run.fingerprints, variant(run)), {})
                group.setdefault(network.label, []).append(run)
    return [table for by_network in groups.values() for table in _tables(by_network)]


def _tables(by_network: dict[str, list[Run]]) -> list[PerClass]:
    first = next(iter(by_network.values()))[0]
    numbers = _NUMBERS[first.kind]
    # what -> class -> column -> weights -> scores
    values: dict[str, dict[str, dict[tuple[str, str], Values]]] = {}
    missing: list[str] = []
    for label, runs in by_network.items():
        for run in runs:
            found = read_per_class(run.folder, detection=run.kind == "detection")
            if isinstance(found, str):
                missing.append(found)
                continue
            for row in found:
                of_class = values.setdefault(row.what, {}).setdefault(row.name, {})
                for number in numbers:
                    value = row.numbers.get(number)
                    if is_number(value):
                        of_column = of_class.setdefault((label, number), {})
                        scores = of_column.setdefault(run.network["sha256"], [])
                        scores.append((float(value), None))
    columns = [(label, number) for label in by_network for number in numbers]
    return [
        PerClass(
            kind=first.kind,
            what=what,
            data=first.data,
            protocol=first.record["digest"],
            fingerprints=first.fingerprints,
            networks=list(by_network),
            numbers=numbers,
            rows={
                name: [entry(found[c]) if c in found else None for c in columns]
                for name, found in by_class.items()
            },
            missing=missing,
        )
        for what, by_class in (values or {"": {}}).items()
    ]
