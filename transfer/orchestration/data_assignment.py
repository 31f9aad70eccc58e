"""Which protocol runs on which data. Looks at folders and their names; decodes no image."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msbreg.data.segmentation.depth_maps import NYU_FILE
from msbreg.data.segmentation.map_sources import MAP_SOURCES
from msbreg.data.sources import SOURCES, check_source, recognized, split_layout
from msbreg.run.errors import UserError
from msbreg.run.options import script_of_card
from transfer.detectors.config.supported import check_run
from transfer.detectors.config.yaml_file import read_config
from transfer.orchestration.data_sets import DATA_SETS
from transfer.orchestration.protocols import Kind, Protocol
from transfer.orchestration.suite_config import DIGITS, Config

CARDS = Path(__file__).resolve().parents[2] / "configs"
LAYOUTS = tuple(dict.fromkeys((*SOURCES, *MAP_SOURCES)))


@dataclass(frozen=True)
class Assigned:
    """A protocol and what it runs on.

    Attributes:
        data: the value of the script's option.
        card: file of the card; None means the script's defaults.
        splits: names of the splits of a user's own data, used where the card does not name any.
    """

    protocol: Protocol
    data: str
    card: Path | None
    splits: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Missing:
    """A protocol without data: what to fetch, and where it must lie (empty if there is no such data)."""

    protocol: Protocol
    fetch: str
    place: str


def assign(config: Config) -> tuple[tuple[Assigned, ...], tuple[Missing, ...]]:
    """The protocols that run, in the order of the table, and those whose data are missing.

    Raises:
        UserError: no protocol takes the data that were given, or a card does not exist.
    """
    chosen = config.selected()
    found = {one.protocol.name: one for one in _found(config, chosen)}
    missing = [] if config.on_digits else list(_missing(config, chosen, found))
    if config.on_digits:
        missing = [
            Missing(p, "no such data are embedded", "")
            for p in chosen
            if p.takes and p.digits is None and not config.only
        ]
    for protocol in chosen:
        if protocol.name in found and (lacking := [n for n in protocol.needs if n not in found]):
            needed = next(p for p in chosen if p.name == lacking[0])
            del found[protocol.name]
            missing.append(_missing_data(config, protocol, needed.data))
    more = [_detector(config, name) for name in config.detectors]
    if not found and not more:
        raise UserError(_nothing_fits(config, chosen))
    _check_cards_exist(config, found)
    return (*(found[p.name] for p in chosen if p.name in found), *more), tuple(missing)


def _found(config: Config, chosen: tuple[Protocol, ...]) -> Iterator[Assigned]:
    if config.on_digits:
        for protocol in chosen:
            if protocol.digits is not None:
                name = config.cards and f"{config.cards}_{protocol.script}"
                card = _card(name) if name else None
                yield Assigned(protocol, DIGITS, card or _existing_card(protocol.digits))
        return
    published: dict[str, Path] = {}
    for given in reversed(config.data):  # the first one wins
        found = _published(given)
        published |= found
        if not found:
            yield from _own(config, given, chosen)
    for protocol in chosen:
        name = next((n for n in (protocol.data, *protocol.instead) if n in published), None)
        if name is not None:
            card = _card_of(config, protocol) or _existing_card(protocol.card)
            yield Assigned(protocol, _value(name, published[name]), card)


def _published(given: str) -> dict[str, Path]:
    """Name in ``DATA_SETS`` -> folder, of the published data sets that were given.

    Raises:
        UserError: it is neither a folder nor LAYOUT:FOLDER.
    """
    check_source(given, LAYOUTS)
    layout, folder = split_layout(given, LAYOUTS)
    root = Path(folder).expanduser()
    if not layout:
        return {name: path for name, one in DATA_SETS.items() if (path := one.find(root))}
    return {
        name: root for name, one in DATA_SETS.items() if one.layout == layout and one.contains(root)
    }


def _value(name: str, folder: Path) -> str:
    """The value of the option ``--data`` of a script for a data set in ``DATA_SETS``."""
    layout = DATA_SETS[name].layout
    return f"{layout}:{folder}" if layout else str(folder)


# ---- A user's own data


def _own(config: Config, given: str, chosen: tuple[Protocol, ...]) -> Iterator[Assigned]:
    """The protocols that take a data set that is none of the published ones."""
    kinds = dict(_kinds(given))
    for protocol in chosen:
        for kind in protocol.takes:
            if kind in kinds:
                data, splits = kinds[kind]
                yield Assigned(protocol, data, _card_of(config, protocol), splits)
                break


def _kinds(given: str) -> Iterator[tuple[Kind, tuple[str, dict[str, str]]]]:
    """(kind, (value of ``--data``, splits)) of all kinds of data that a folder contains.

    Raises:
        UserError: the folder does not have the layout that was given.
    """
    layout, folder = split_layout(given, LAYOUTS)
    root = Path(folder).expanduser()
    _check_layout(layout, root)
    images = layout if layout in SOURCES else "" if layout else recognized(root)
    if images == "voc":
        splits = {"train_split": "trainval", "val_split": "test", "test_split": "test"}
        yield "several classes", (f"voc:{folder}", splits)
    elif images and images != "flat":
        value = folder if images == "folder" and not layout else f"{images}:{folder}"
        yield "classes", (value, _two(SOURCES[images].splits(root)))
    for name, maps in MAP_SOURCES.items():
        if layout in ("", name) and (found := maps.splits(root)):
            yield "label maps", (f"{name}:{folder}", _two(found))
            break
    if not layout and ((root / "depths").is_dir() or (root / NYU_FILE).is_file()):
        yield "depths", (folder, {})


def _check_layout(layout: str, root: Path) -> None:
    """Check that a folder has the layout that was given; of ``folder``, the splits may have any name.

    Raises:
        UserError: it does not; the message names what the folder contains.
    """
    readers = [table[layout] for table in (SOURCES, MAP_SOURCES) if layout in table]
    if layout == "folder" or not readers or any(reader.splits(root) for reader in readers):
        return
    found = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    other = recognized(root)
    raise UserError(
        f"data is {layout}:{root}, but that folder does not have the layout {layout}.\nFound: {found}"
        + (f".\nThis looks like the layout {other}: use {other}:{root}" if other else "")
    )


def _two(splits: tuple[str, ...]) -> dict[str, str]:
    """The splits to fit on and to score; empty if their names do not tell.

    >>> _two(("test", "train")), _two(("train2017", "val2017"))
    ({'train_split': 'train', 'val_split': 'test'}, {'train_split': 'train2017', 'val_split': 'val2017'})
    """
    train = next((name for name in splits if name.lower().startswith("train")), None)
    ends = [name for start in ("val", "test") for name in splits if name.lower().startswith(start)]
    return {"train_split": train, "val_split": ends[0]} if train and ends else {}


# ---- What is missing


def _missing(
    config: Config, chosen: tuple[Protocol, ...], found: dict[str, Any]
) -> Iterator[Missing]:
    """Protocols without data below a folder of several data sets, or that were asked for by name."""
    several = any(_is_root(given) for given in config.data)
    for protocol in chosen:
        asked = protocol.name in config.only
        if protocol.name not in found and protocol.data and (several or asked):
            yield _missing_data(config, protocol, protocol.data)


def _is_root(given: str) -> bool:
    """Whether a folder contains data sets in its subfolders."""
    root = Path(given).expanduser()
    return root.is_dir() and any(path != root for path in _published(given).values())


def _missing_data(config: Config, protocol: Protocol, name: str) -> Missing:
    root = next((Path(given) for given in config.data if _is_root(given)), Path("ROOT"))
    return Missing(protocol, DATA_SETS[name].fetch, str(DATA_SETS[name].place(root)))


def _nothing_fits(config: Config, chosen: tuple[Protocol, ...]) -> str:
    names = ", ".join(protocol.name for protocol in chosen[:12])
    given = "the embedded digits" if config.on_digits else ", ".join(config.data)
    kinds = "" if config.on_digits else _what_is_expected()
    return f"none of the protocols ({names}{', ...' if len(chosen) > 12 else ''}) takes {given}.{kinds}"


def _what_is_expected() -> str:
    return (
        "\nExpected a folder with data sets in subfolders such as imagenet/, VOCdevkit/ and coco/ (docs/"
        "data-sets.md), a folder with train/CLASS/ and val/CLASS/, or LAYOUT:FOLDER with one of: "
        + ", ".join(LAYOUTS)
    )


# ---- Cards


def _card(name: str) -> Path | None:
    """The file of a card; None if there is none."""
    file = CARDS / f"{name}.yaml"
    return file if file.is_file() else None


def _card_of(config: Config, protocol: Protocol) -> Path | None:
    """The card with the prefix that was given, for the script of a protocol."""
    if not config.cards or protocol.script == "detection":
        return None
    return _card(f"{config.cards}_{protocol.script}")


def _existing_card(name: str) -> Path | None:
    """The file of a card in the table of protocols; None for an empty name.

    Raises:
        UserError: it does not exist.
    """
    if not name:
        return None
    file = CARDS / f"{name}.yaml"
    if not file.is_file():
        raise UserError(f"card {file} does not exist; expected the cards of this repository")
    return file


def _check_cards_exist(config: Config, found: dict[str, Assigned]) -> None:
    """Check that a prefix of cards fits at least one of the protocols that run."""
    if config.cards and not any(_card_of(config, one.protocol) for one in found.values()):
        scripts = {one.protocol.script for one in found.values()}
        known = {
            file.stem.removesuffix(f"_{script}")
            for script in scripts
            for file in CARDS.glob(f"*_{script}.yaml")
            if script_of_card(file) == f"transfer/{script}.py"
        }
        raise UserError(
            f"cards is {config.cards!r}, but there is no card {CARDS}/{config.cards}_SCRIPT.yaml for any of "
            f"{', '.join(sorted(scripts))}; expected one of: {', '.join(sorted(known))}"
        )


def _detector(config: Config, name: str) -> Assigned:
    """A detector that was asked for by its card.

    Raises:
        UserError: there is no such card, or it is not that of a supported detector.
    """
    file = CARDS / f"{name}.yaml"
    known = sorted(f.stem for f in CARDS.glob("*.yaml") if "META_ARCHITECTURE" in f.read_text())
    if not file.is_file():
        raise UserError(f"card {file} does not exist; expected one of: {', '.join(known)}")
    try:
        settings = read_config(file)
    except UserError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"detectors: {name} is not a detector card ({reason}).\nExpected some of: {', '.join(known)}"
        ) from error
    check_run(settings)
    roots = [split_layout(given, LAYOUTS)[1] for given in config.data]
    return Assigned(Protocol(name, "detection"), DIGITS if config.on_digits else roots[0], file)
