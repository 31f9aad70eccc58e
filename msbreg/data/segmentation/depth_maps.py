"""Images with a depth for each pixel: NYU-v2's labeled file, or a folder.

    nyu_depth_v2_labeled.mat and splits.mat       1,449 images of 640 x 480: train has 795, test 654
    ROOT/images/NAME.png (or .jpg)                ROOT/depths/NAME.png, uint16 in millimeters, or NAME.npy in
    ROOT/train.txt, ROOT/test.txt                 meters; the names of each split, one per line

Depths are in meters; 0 where the depth is unknown. Those of NYU-v2's labeled file are its ``depths``, in
which missing values of the sensor are filled in. The file is MATLAB's version 7.3, which is HDF5: reading it
needs the extra ``depth``.
"""

import abc
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import numpy as np

from msbreg.data.classification.file_lists import PublishedSplit, WrongLayout, read_lines
from msbreg.data.decoding import image_size, read_gray16, read_image
from msbreg.data.folder import file_size
from msbreg.data.images import LabeledImages
from msbreg.data.packed_paths import NAME_CODEC
from msbreg.data.segmentation.label_folders import files_by_stem
from msbreg.run.errors import UserError
from msbreg.run.files import open_regular

NYU_FILE, NYU_SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
NYU = {"train": PublishedSplit(795, 0), "test": PublishedSplit(654, 0)}
MILLIMETERS = 1000


@dataclass(frozen=True)
class DepthMaps(LabeledImages):
    """The images of one split, each with a depth map of its size."""

    @abc.abstractmethod
    def depth(self, i: int) -> np.ndarray:  # (H, W) float32
        """The depth of each pixel of image i in meters; 0 where it is unknown.

        Raises:
            UserError: the map cannot be read, has another size than its image, or has negative values.
        """


def open_depth_maps(data: str, split: str) -> DepthMaps:
    """Open one split of NYU-v2's labeled file (or its folder), or of a folder of images and depth maps.

    Raises:
        UserError: the data are missing or have another layout, a listed file is missing, or h5py is needed
            and not installed.
    """
    root = Path(data).expanduser()
    file = root / NYU_FILE if root.is_dir() else root
    if file.is_file():
        return open_nyu(file, split)
    return open_depth_folder(root, split)


def checked(
    depth: np.ndarray,  # (H, W), in meters
    size: tuple[int, int],
    name: str,
) -> np.ndarray:  # (H, W) float32
    """A depth map in which values that are not finite are unknown.

    Raises:
        UserError: it has another size than the image, or negative values.
    """
    if depth.shape != size:
        raise UserError(
            f"the depth map of {name} has the shape {depth.shape}; expected {size}, the height and width of "
            "its image"
        )
    found = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    if (found < 0).any():
        raise UserError(
            f"the depth map of {name} has the value {found.min():g}; expected meters of 0 or more, where 0 "
            "is unknown"
        )
    return found


# ---- NYU-v2


@dataclass(frozen=True)
class NYUDepths(DepthMaps):
    """Some images of nyu_depth_v2_labeled.mat.

    Attributes:
        file: the labeled file.
        rows: (N,) index of each image in the file.
    """

    file: Path
    rows: np.ndarray

    @property
    def where(self) -> str:
        return str(self.file)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        return np.ascontiguousarray(self._stored("images", i).transpose(2, 1, 0))

    def depth(self, i: int) -> np.ndarray:  # (H, W) float32
        found = self._stored("depths", i).T
        return checked(found, found.shape, self.name(i))

    def entry(self, i: int) -> str:
        return f"{self.rows[i] + 1:04d}.png"

    def name(self, i: int) -> str:
        return f"{self.file}: image {self.rows[i] + 1}"

    def cache_key(self) -> str:
        state = self.file.stat()
        text = f"{self.file.absolute()} {state.st_size} {state.st_mtime_ns} {self.rows.tolist()}"
        return hashlib.sha256(text.encode(*NAME_CODEC)).hexdigest()

    def select(self, keep: np.ndarray) -> Self:  # (M,)
        return replace(self, rows=self.rows[keep])

    def _stored(self, key: str, i: int) -> np.ndarray:
        # Opened for every image: an open file must not be shared with worker processes.
        with _opened(self.file) as content:
            try:
                return np.asarray(content[key][self.rows[i]])
            except OSError as error:
                raise UserError(
                    f"{self.name(i)} cannot be read: {error}. Download the file again"
                ) from error


def open_nyu(file: Path, split: str) -> NYUDepths:
    """The ``train`` (795) or ``test`` (654) images of the labeled file, as listed in splits.mat beside it.

    Raises:
        UserError: a file is missing, damaged or another one, or h5py is not installed.
    """
    from scipy.io import loadmat

    if split not in NYU:
        raise UserError(f"{file} has no split {split!r}; found: {', '.join(NYU)}")
    beside = file.parent / NYU_SPLITS
    if not beside.is_file():
        raise UserError(
            f"{beside} does not exist; expected NYU-v2's list of splits beside {file.name}"
        )
    try:
        with open_regular(beside) as opened:
            rows = loadmat(opened)[f"{split}Ndxs"].ravel().astype(np.int64) - 1
    except (KeyError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(
            f"{beside} cannot be read ({error}); expected NYU-v2's trainNdxs and testNdxs"
        ) from error
    with _opened(file) as content:
        if "images" not in content or "depths" not in content:
            raise UserError(f"{file} has {sorted(content)}; expected images and depths")
        count = len(content["images"])
    if not len(rows) or rows.min() < 0 or rows.max() >= count:
        raise UserError(f"{beside} lists images outside of 1 to {count}, those of {file.name}")
    digest = hashlib.sha256(f"{file_size(file)} {split} {rows.tolist()}".encode())
    return NYUDepths(None, (), digest.hexdigest(), file=file, rows=rows)


def _opened(file: Path) -> Any:
    try:
        return _h5py().File(file, "r")
    except OSError as error:
        raise UserError(
            f"{file} cannot be read as HDF5: {error}. Expected {NYU_FILE} as published, which is MATLAB's "
            "version 7.3; download it again"
        ) from error


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{NYU_FILE} needs h5py, which is not installed; run in the clone: pip install -e '.[depth]'"
        ) from error
    module: ModuleType = h5py
    return module


# ---- Folders


@dataclass(frozen=True)
class DepthFolder(DepthMaps):
    """Image files and files of depth maps.

    Attributes:
        root: the folder of ``images`` and ``depths``.
        paths: names of the files in ``images``, one per image.
        maps: names of the files in ``depths``.
    """

    root: Path
    paths: Sequence[str]
    maps: Sequence[str]

    @property
    def where(self) -> str:
        return str(self.root)

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, i: int) -> np.ndarray:  # (H, W, 3) uint8 RGB
        return read_image(Path(self.name(i)))

    def depth(self, i: int) -> np.ndarray:  # (H, W) float32
        file = self.root / "depths" / self.maps[i]
        return checked(read_depth(file), image_size(Path(self.name(i))), self.name(i))

    def entry(self, i: int) -> str:
        return self.paths[i]

    def name(self, i: int) -> str:
        return str(self.root / "images" / self.paths[i])

    def cache_key(self) -> str:
        return f"{self.root.absolute()} {self.fingerprint}"

    def select(self, keep: np.ndarray) -> Self:  # (M,)
        chosen = keep.tolist()
        return replace(
            self, paths=[self.paths[i] for i in chosen], maps=[self.maps[i] for i in chosen]
        )


def read_depth(file: Path) -> np.ndarray:  # (H, W)
    """A depth map in meters: a PNG with 16 bits of millimeters, or a NumPy array.

    Raises:
        UserError: the file is neither.
    """
    if file.suffix == ".png":
        return read_gray16(file) / np.float32(MILLIMETERS)
    try:
        with open_regular(file) as opened:
            found: np.ndarray = np.load(opened, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file} is not a NumPy array: {error}") from error
    if found.dtype.kind != "f":
        raise UserError(f"{file} has the type {found.dtype}; expected floats, the depth in meters")
    return found


def open_depth_folder(root: Path, split: str) -> DepthFolder:
    """The images that ROOT/SPLIT.txt lists.

    Raises:
        WrongLayout: ROOT has another layout.
        UserError: the list is missing or empty, or names files that are missing.
    """
    images, depths, file = root / "images", root / "depths", root / f"{split}.txt"
    if not images.is_dir() or not depths.is_dir():
        raise WrongLayout(
            f"{root} has no known layout of depth maps; expected {NYU_FILE}, or images/, depths/ and "
            "SPLIT.txt"
        )
    if not file.is_file():
        found = sorted(p.stem for p in root.glob("*.txt"))
        raise UserError(f"{file} does not exist; found the splits: {', '.join(found) or 'none'}")
    paths = files_by_stem(images)
    lines = [line.strip() for line in read_lines(file)]
    names = [line if line in paths else Path(line).stem for line in lines]
    if not names:
        raise UserError(f"{file} lists no images")
    maps = {p.stem: p.name for p in sorted(depths.iterdir()) if p.suffix in (".png", ".npy")}
    missing = [name for name in names if name not in paths or name not in maps]
    if missing:
        raise UserError(
            f"{file} lists {len(missing)} of {len(names)} names without both an image and a depth map, "
            f"such as {missing[0]}"
        )
    digest = hashlib.sha256()
    for name in names:
        sizes = file_size(images / paths[name]), file_size(depths / maps[name])
        digest.update(f"{paths[name]}\0{maps[name]}\0{sizes}\n".encode(*NAME_CODEC))
    chosen = [paths[name] for name in names], [maps[name] for name in names]
    return DepthFolder(None, (), digest.hexdigest(), root=root, paths=chosen[0], maps=chosen[1])
