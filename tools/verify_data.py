"""Check a data set with the readers of the protocols, and decode every image.

    python tools/verify_data.py                                  # the embedded digits
    python tools/verify_data.py photographs/                     # train/CLASS/, CLASS/, or images alone
    python tools/verify_data.py imagenet /data/imagenet --passport imagenet.json
    python tools/verify_data.py imagenet /data/imagenet --splits train-1pct val
    python tools/verify_data.py voc /data/VOCdevkit
    python tools/verify_data.py segmentation /data/cityscapes --splits train val
    python tools/verify_data.py coco:JSON:IMAGES                 # any name that transfer/detection.py accepts

A name before the path is that of a layout; without one, the layout is recognized. Prints one row per split,
the labels per class, warnings (counts that differ from the published ones) and problems. --passport writes
the same to a json file, with the fingerprints that records cite. Exit code 0: no problems; 1: problems; 2:
the data set does not exist.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from msbreg.data.catalog import load_scenes
from msbreg.data.digits.generate import prepare_digits
from msbreg.data.segmentation.ade20k import ade20k_root
from msbreg.data.segmentation.cityscapes_maps import cityscapes_root
from msbreg.data.segmentation.label_folders import label_folder_splits
from msbreg.data.sources import SOURCES, folder_splits, recognized, split_layout
from msbreg.run.errors import UserError, exit_codes
from tools.data_checks.checked_split import Split
from tools.data_checks.data_passport import passport, write_passport
from tools.data_checks.scene_checks import check_coco, check_scenes, check_segmentation, check_voc
from tools.data_checks.source_checks import check_folder, check_source
from tools.tool_parser import ToolParser

LAYOUTS = ("folder", "voc", "segmentation", "coco")  # those of the embedded digits
SHOWN = 5  # problems listed per split
CLASSES_SHOWN = 25

CHECKS: dict[str, Callable[[Path], Iterator[Split]]] = {
    **{name: partial(check_source, name) for name in SOURCES},
    "folder": check_folder,
    "voc": check_voc,
    "segmentation": check_segmentation,
    "coco": check_coco,
}


def find_layouts(root: Path) -> Iterator[tuple[str, Path]]:
    """Layouts at ``root`` or up to two levels below it; (folder, root) if there is no other."""
    folders = [root]
    for _ in range(2):
        folders += [path for base in list(folders) for path in base.iterdir() if path.is_dir()][:50]
    found: list[tuple[str, Path]] = []
    inside: set[Path] = set()  # data sets of one layout, which need no search below
    for base in dict.fromkeys(folders):
        if not inside.isdisjoint(base.parents):
            continue
        layouts = _layouts_at(base)
        if any(layout not in LAYOUTS for layout in layouts):
            inside.add(base)
        found += [(layout, base) for layout in layouts]
    yield from found or [("folder", root)]


def _layouts_at(base: Path) -> list[str]:
    """The layouts of one folder: a published one, or several of boxes and label maps, or class folders."""
    sets = base / "ImageSets"
    boxes = {
        "voc": (sets / "Main").is_dir() and (base / "JPEGImages").is_dir(),
        "segmentation": ((sets / "Segmentation").is_dir() and (base / "SegmentationClass").is_dir())
        or base in (cityscapes_root(base), ade20k_root(base))
        or bool(label_folder_splits(base)),
        "coco": any(
            any((base / "annotations").glob(f"{kind}_*.json"))
            for kind in ("instances", "person_keypoints")
        ),
    }
    if any(boxes.values()):
        return [layout for layout, present in boxes.items() if present]
    layout = recognized(base)
    if layout not in (None, "folder", "flat", "voc"):
        return [str(layout)]
    return ["folder"] if folder_splits(base) else []


def verify(data: str, layout: str, names: Sequence[str] = ()) -> list[Split]:
    """Check a data set, given by name or folder, in one layout or in ``all``.

    Args:
        names: check only these splits, of a layout in ``SOURCES``.

    Raises:
        UserError: the data set does not exist or does not have the layout.
    """
    given, folder = split_layout(data)
    if data == "digits":
        root = prepare_digits()
    elif given and Path(folder).expanduser().exists():  # LAYOUT:FOLDER
        root, layout = Path(folder).expanduser(), given
    elif not Path(data).expanduser().exists() and (":" in data or "_" in data):
        name, _, rest = data.partition(":")
        return [check_scenes(name if rest else "scenes", data, partial(load_scenes, data))]
    else:
        root = Path(data).expanduser()
    if not root.is_dir():
        raise UserError(
            f"data {data!r} is neither a folder nor the name of a data set; expected digits, a folder, "
            "voc:FOLDER:SPLIT, coco:JSON:IMAGES or lvis:JSON:IMAGES"
        )
    if names and layout in ("all", "voc", "coco"):
        raise UserError(
            f"--splits needs the layout before the path; expected one of {', '.join(SOURCES)}"
        )
    if layout == "segmentation" and names:
        return list(check_segmentation(root, names))
    if layout == "folder" and names:
        return list(check_folder(root, names))
    if layout not in ("all", *LAYOUTS):
        return list(check_source(layout, root, names))
    wanted = CHECKS if layout == "all" else (layout,)
    splits = [s for name, base in find_layouts(root) if name in wanted for s in CHECKS[name](base)]
    if not splits and layout == "folder":  # of a data set with a layout of its own
        return list(check_folder(root))
    if not splits:
        raise UserError(
            f"{root} has no {layout} layout.\n"
            "  folder        expects train/CLASS/ and val/CLASS/, CLASS/, or images alone\n"
            "  voc           expects ImageSets/Main/ and JPEGImages/\n"
            "  segmentation  expects ImageSets/Segmentation/ and SegmentationClass/, or the label maps of\n"
            "                Cityscapes, ADE20K, or labels/SPLIT, images/SPLIT and classes.txt\n"
            "  coco          expects annotations/instances_*.json or person_keypoints_*.json\n"
            "in this folder or up to two levels below."
        )
    return splits


def table(splits: list[Split]) -> str:
    """One row per split, followed by its labels, notes, warnings and first problems."""
    width = max(12, *(len(split.name) + 2 for split in splits))
    heading = f"{'images':>8}{'classes':>9}{'labels':>9}{'problems':>10}"
    lines = [f"{'layout':<14}{'split':<{width}}{heading}"]
    for s in splits:
        counts = f"{s.images:>8}{len(s.labels):>9}{s.labels.total():>9}{len(s.problems):>10}"
        lines.append(f"{s.layout:<14}{s.name:<{width}}{counts}")
    for s in splits:
        names = sorted(s.labels)
        counts = "  ".join(f"{name} {s.labels[name]}" for name in names[:CLASSES_SHOWN])
        if len(names) > CLASSES_SHOWN:
            counts += f"  and {len(names) - CLASSES_SHOWN} more classes"
        lines.append(f"\n{s.layout} {s.name}: {counts or 'no labels'}")
        if s.fingerprint:
            lines.append(f"  fingerprint: {s.fingerprint}")
        lines += [f"  note: {note}" for note in s.notes]
        lines += [f"  warning: {warning}" for warning in s.warnings]
        lines += [f"  problem: {problem}" for problem in s.problems[:SHOWN]]
        if len(s.problems) > SHOWN:
            lines.append(f"  and {len(s.problems) - SHOWN} more problems")
    return "\n".join(lines)


def main() -> int:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "given", nargs="*", metavar="[LAYOUT] DATA", help="layout and folder, or DATA as in --data"
    )
    parser.add_argument(
        "--data", default="digits", help="digits, a folder, or the name of a detection data set"
    )
    parser.add_argument(
        "--layout", default="all", choices=("all", *CHECKS), help="layout to check (default: all)"
    )
    parser.add_argument("--splits", nargs="+", default=(), help="check only these splits")
    parser.add_argument("--passport", type=Path, help="write the result to this json file")
    with exit_codes():
        options = parser.parse_args()
        data, layout = _data_and_layout(options.given, options.data, options.layout)
        _check_passport(options.passport)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        splits = verify(data, layout, options.splits)
        print(table(splits))
        if options.passport is not None:
            write_passport(options.passport, passport(data, splits))
    return int(any(split.problems for split in splits))


def _check_passport(file: Path | None) -> None:
    """Find an impossible path before hours of decoding."""
    if file is None:
        return
    if file.is_dir():
        raise UserError(f"--passport {file} is a folder; expected the path of a json file")
    if not file.absolute().parent.is_dir():
        raise UserError(f"--passport {file}: the folder {file.parent} does not exist")


def _data_and_layout(given: Sequence[str], data: str, layout: str) -> tuple[str, str]:
    """Combine the words LAYOUT DATA or DATA with the options of the same meaning."""
    if not given:
        return data, layout
    if len(given) == 1:
        return given[0], layout
    if len(given) > 2 or given[0] not in CHECKS:
        raise UserError(
            f"{' '.join(given)!r} is not LAYOUT DATA; expected one of {', '.join(CHECKS)}, and a folder"
        )
    return given[1], given[0]


if __name__ == "__main__":
    sys.exit(main())
