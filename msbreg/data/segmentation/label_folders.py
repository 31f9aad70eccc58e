"""A folder of images and a folder of label maps with the same names, and ``classes.txt``.

    ROOT/classes.txt                one class per line: the first is label 0
    ROOT/images/SPLIT/NAME.jpg      or ROOT/SPLIT/NAME.jpg
    ROOT/labels/SPLIT/NAME.png      or ROOT/annotations, ROOT/masks, ROOT/stuffthingmaps (COCO-Stuff)
    ROOT/SPLIT.txt                  optional: the names of the split, one per line

255 is void.
"""

from pathlib import Path

from msbreg.data.classification.file_lists import WrongLayout, read_lines
from msbreg.data.decoding import IMAGE_SUFFIXES
from msbreg.data.segmentation.label_maps import LabelMaps, paired
from msbreg.data.voc import CLASSES_FILE, check_classes
from msbreg.run.errors import UserError

MAP_FOLDERS = ("labels", "annotations", "masks", "stuffthingmaps")
NAMED = 3  # file names in a message


def open_label_folders(root: Path, split: str) -> LabelMaps:
    """Images and label maps of one split, sorted by name, or in the order of ROOT/SPLIT.txt.

    Raises:
        WrongLayout: ROOT has another layout.
        UserError: the folders contain different names, or the list names images that are not there.
    """
    if not (root / CLASSES_FILE).is_file() or not (candidates := _map_folders(root)):
        raise WrongLayout(
            f"{root} does not have this layout; expected {CLASSES_FILE}, images/SPLIT and labels/SPLIT"
        )
    classes = tuple(line.strip() for line in read_lines(root / CLASSES_FILE))
    check_classes(classes, str(root / CLASSES_FILE))
    file = root / f"{split}.txt"
    images = next((f for f in (root / "images" / split, root / split) if f.is_dir()), None)
    maps = next((f / split for f in candidates if (f / split).is_dir()), None)
    if file.is_file():
        images, maps = images or root / "images", maps or candidates[0]
    if images is None or maps is None:
        raise UserError(
            f"{root} has no split {split!r}; expected images/{split} and {candidates[0].name}/{split}, found "
            f"the splits: {', '.join(label_folder_splits(root)) or 'none'}"
        )
    paths, labels = files_by_stem(images), files_by_stem(maps)
    stems = _listed(file, images, paths, labels) if file.is_file() else same_names(images, maps)
    return paired(images, [paths[s] for s in stems], maps, [labels[s] for s in stems], classes)


def label_folder_splits(root: Path) -> tuple[str, ...]:
    """The splits below ROOT; empty if ROOT has another layout."""
    if not (root / CLASSES_FILE).is_file():
        return ()
    names = {
        path.name for folder in _map_folders(root) for path in folder.iterdir() if path.is_dir()
    }
    return tuple(s for s in sorted(names) if (root / "images" / s).is_dir() or (root / s).is_dir())


def files_by_stem(folder: Path) -> dict[str, str]:
    """Name without suffix -> file name, of the images in a folder, sorted.

    Raises:
        UserError: two files differ in their suffix only.
    """
    found: dict[str, str] = {}
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    for name in sorted(n for n in names if Path(n).suffix.lower() in IMAGE_SUFFIXES):
        stem = Path(name).stem
        if stem in found:
            raise UserError(
                f"{folder} contains both {found[stem]} and {name}; expected one of them"
            )
        found[stem] = name
    return found


def same_names(images: Path, maps: Path) -> list[str]:
    """The names that both folders contain.

    Raises:
        UserError: one folder lacks a name of the other.
    """
    first, second = files_by_stem(images), files_by_stem(maps)
    without = [name for name in first if name not in second]
    unused = [name for name in second if name not in first]
    if without or unused:
        lines = []
        if without:
            lines.append(f"  {len(without)} images without a label map: {_some(without)}")
        if unused:
            lines.append(f"  {len(unused)} label maps without an image: {_some(unused)}")
        raise UserError(
            f"{images} contains {len(first)} images, and {maps} {len(second)} label maps; expected equal "
            "names:\n" + "\n".join(lines)
        )
    return list(first)


def _listed(file: Path, images: Path, paths: dict[str, str], labels: dict[str, str]) -> list[str]:
    stems = [line.strip() for line in read_lines(file)]
    known = set(paths) & set(labels)
    if unknown := [s for s in stems if s not in known]:
        raise UserError(
            f"{file} lists {len(unknown)} names without an image and a label map: {_some(unknown)}; expected "
            f"names of files in {images}, without suffix"
        )
    if len(set(stems)) < len(stems):
        raise UserError(f"{file} lists an image twice; expected each image once")
    return stems


def _map_folders(root: Path) -> list[Path]:
    return [root / name for name in MAP_FOLDERS if (root / name).is_dir()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
