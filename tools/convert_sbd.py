"""Convert the label maps of the Semantic Boundaries Dataset (SBD) for the split trainaug of VOC 2012.

    python tools/convert_sbd.py benchmark_RELEASE/dataset VOCdevkit/VOC2012

Writes SegmentationClassAug/ID.png for every cls/ID.mat whose image VOC does not annotate itself, and
ImageSets/Segmentation/trainaug.txt: VOC's train and all of SBD without VOC's val, which are 10,582 images if
both are complete. Existing label maps are kept. Exit code 2: a folder or a file is missing or malformed.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import io

import numpy as np
from PIL import Image

from msbreg.data.classification.file_lists import read_lines
from msbreg.data.digits.writers import voc_palette
from msbreg.data.segmentation.voc_maps import FOLDERS, VOC_MAPS
from msbreg.run.errors import UserError, exit_codes
from msbreg.run.files import open_regular, write_atomically
from tools.tool_parser import ToolParser


def read_sbd(file: Path) -> np.ndarray:  # (H, W) uint8
    """The label map in ``GTcls.Segmentation`` of a MATLAB file: 0 background, 1 to 20 VOC's classes.

    Raises:
        UserError: the file has other contents.
    """
    from scipy.io import loadmat

    try:
        with open_regular(file) as opened:
            labels = loadmat(io.BytesIO(opened.read()))["GTcls"]["Segmentation"][0, 0]
    except (OSError, ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise UserError(f"{file} cannot be read: {error}; expected GTcls.Segmentation") from error
    if labels.ndim != 2 or labels.dtype != np.uint8 or labels.max(initial=0) > 20:
        raise UserError(
            f"{file}: Segmentation has shape {labels.shape} and type {labels.dtype}; expected a matrix of "
            "labels from 0 to 20"
        )
    return np.asarray(labels)


def convert(sbd: Path, voc: Path) -> tuple[int, int]:
    """Write label maps and list; returns the number of converted maps and of images in the list.

    Raises:
        UserError: a folder, a list or an image is missing, or a file is malformed.
    """
    files = sorted((sbd / "cls").glob("*.mat"))
    if not files:
        raise UserError(
            f"{sbd} contains no label maps; expected cls/*.mat, as in SBD's benchmark.tgz"
        )
    lists = voc / "ImageSets" / "Segmentation"
    train, val = (
        [line.strip() for line in read_lines(lists / f"{split}.txt")] for split in ("train", "val")
    )
    own = {path.stem for path in (voc / FOLDERS[0]).glob("*.png")}
    listed = sorted({*train, *(file.stem for file in files)} - set(val))
    if missing := [name for name in listed if not (voc / "JPEGImages" / f"{name}.jpg").is_file()]:
        raise UserError(
            f"{len(missing)} images are missing in {voc / 'JPEGImages'}, such as {missing[0]}.jpg; expected "
            "VOC 2012, which contains those of SBD"
        )
    target = voc / FOLDERS[1]
    target.mkdir(exist_ok=True)
    converted = 0
    for file in files:
        path = target / f"{file.stem}.png"
        if file.stem in own or path.exists():
            continue
        image = Image.fromarray(read_sbd(file))
        image.putpalette(voc_palette())
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        write_atomically(path, buffer.getvalue())
        converted += 1
    write_atomically(lists / "trainaug.txt", "".join(f"{name}\n" for name in listed).encode())
    return converted, len(listed)


def main() -> int:
    parser = ToolParser(__doc__)
    parser.add_argument("sbd", type=Path, help="SBD's folder dataset, which contains cls/")
    parser.add_argument("voc", type=Path, help="the folder VOC2012, which contains ImageSets/")
    with exit_codes():
        options = parser.parse_args()
        converted, listed = convert(options.sbd, options.voc)
        expected = VOC_MAPS["trainaug"].images
        print(f"converted {converted} label maps; trainaug.txt lists {listed} images")
        if listed != expected:
            print(f"warning: the published split has {expected} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
