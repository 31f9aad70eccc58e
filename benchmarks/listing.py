"""Time the listing of a folder of classes, and the memory of its list, against torchvision's ImageFolder.

    python benchmarks/listing.py --images 1281000 --folder /local/disk

The tree of hard links is made in a temporary folder and removed afterwards. Every route runs in a process of
its own, once per round and interleaved. Ours also reads the size of each file and computes the fingerprint;
ImageFolder does not.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from torchvision.datasets import ImageFolder

from msbreg.data.folder import list_images

CLASSES = 1000
LINKS = 30_000  # per file: file systems limit their number


def ours(root: str) -> object:
    """List, sort, read sizes, compute the fingerprint."""
    return list_images(Path(root))


def torchvision_folder(root: str) -> object:
    """List and sort."""
    return ImageFolder(root)


ROUTES: dict[str, Callable[[str], object]] = {"ours": ours, "ImageFolder": torchvision_folder}


def make_tree(root: Path, images: int) -> None:
    """ROOT/train/CLASS/CLASS_N.JPEG with names as long as ImageNet's."""
    (root / "files").mkdir()
    for index in range(images):
        source = root / "files" / str(index // LINKS)
        if index % LINKS == 0:
            source.write_bytes(b"x")
        wnid = f"n{10_000_000 + index % CLASSES}"
        if index < CLASSES:
            (root / "train" / wnid).mkdir(parents=True)
        os.link(source, root / "train" / wnid / f"{wnid}_{index * 7919 % 99_991}_{index}.JPEG")


def measure(name: str, root: str) -> tuple[float, float, float]:
    """(wall seconds, CPU seconds, MB that the list adds to the resident memory)."""
    before = resident()
    wall, cpu = time.perf_counter(), time.process_time()
    listed = ROUTES[name](root)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    added = resident() - before
    del listed
    return wall, cpu, added


def resident() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to make the tree (default: /tmp)")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name in ROUTES}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_tree(Path(folder), options.images)
        for _ in range(1 + options.rounds):
            for name in ROUTES:
                with multiprocessing.get_context("spawn").Pool(1) as process:
                    figures[name].append(process.apply(measure, (name, f"{folder}/train")))
    print(f"{options.images} images, {CLASSES} classes; medians of {options.rounds} rounds")
    print(f"{'route':16}{'wall s':>8}{'CPU s':>8}{'MB':>8}{'CPU x ours':>12}")
    for name, rounds in figures.items():
        wall, cpu, added = (statistics.median(column) for column in zip(*rounds[1:], strict=True))
        ratio = statistics.median(
            theirs[1] / own[1] for theirs, own in zip(rounds[1:], figures["ours"][1:], strict=True)
        )
        print(f"{name:16}{wall:8.2f}{cpu:8.2f}{added:8.1f}{ratio:12.2f}")


if __name__ == "__main__":
    main()
