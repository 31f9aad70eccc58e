"""Predictions on disk, and checks that they fit a split. They are saved before they are scored."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from msbreg.data.run_lengths import characters, check_runs
from msbreg.data.scenes import Prediction, Scene, Scenes
from msbreg.run.config import plain
from msbreg.run.errors import UserError
from msbreg.run.files import write_atomically


def split_digest(scenes: Scenes) -> str:
    """SHA-256 of all in a split that a score depends on, not of folders and pixels.

    Classes, ids, sizes and annotations, and the year, which decides the metric.
    """
    head = [scenes.classes, scenes.category_ids, scenes.year]
    digest = hashlib.sha256(json.dumps(head).encode())
    for scene in scenes.scenes:
        objects = [(o.box, o.label, o.mask, o.area, o.crowd, o.difficult) for o in scene.instances]
        content = [scene.id, scene.height, scene.width, objects]
        digest.update(json.dumps(content, default=_number).encode())
    return digest.hexdigest()


def in_order(scenes: Scenes, predictions: Sequence[Prediction]) -> list[Prediction]:
    """Give the predictions in the order of the split.

    Raises:
        UserError: a prediction for a scene that is not in the split or has one already, a scene
            without a prediction (nothing found is an entry of length 0), arrays of other shapes than
            ``Prediction`` states, scores or boxes that are not finite, a box with its edges in the
            wrong order, a label that is no class, a mask of another size than the image.
    """
    known = {scene.id: scene for scene in scenes.scenes}
    by_scene: dict[str | int, Prediction] = {}
    for prediction in predictions:
        if prediction.scene not in known:
            raise UserError(
                f"a prediction is for scene {prediction.scene!r}, which is not one of the "
                f"{len(known)} of {scenes.name}.\nGive the split that the predictions are for."
            )
        if prediction.scene in by_scene:
            raise UserError(
                f"scene {prediction.scene!r} of {scenes.name} has two predictions; expected one."
            )
        by_scene[prediction.scene] = prediction
    absent = [scene.id for scene in scenes.scenes if scene.id not in by_scene]
    if absent:
        raise UserError(
            f"{len(absent)} of the {len(known)} scenes of {scenes.name} have no prediction, the "
            f"first is {absent[0]!r}; expected an entry for each, of length 0 where nothing is found."
        )
    for scene in scenes.scenes:
        wrong = _misfit(scene, by_scene[scene.id], len(scenes.classes))
        if wrong:
            raise UserError(f"the prediction for scene {scene.id!r} of {scenes.name} {wrong}.")
    return [by_scene[scene.id] for scene in scenes.scenes]


def _misfit(scene: Scene, prediction: Prediction, classes: int) -> str | None:
    """What is wrong with a prediction, in words that follow "the prediction ..."."""
    boxes, scores, labels = prediction.boxes, prediction.scores, prediction.labels
    n = len(scores)
    shapes = (boxes.shape, scores.shape, labels.shape)
    if shapes != ((n, 4), (n,), (n,)):
        return f"has boxes, scores, labels of shapes {shapes}; expected (N, 4), (N,), (N,)"
    if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
        return "has scores or boxes that are not finite numbers; the detector diverged"
    if (boxes[:, 2:] < boxes[:, :2]).any():
        return "has a box whose right edge is left of its left edge, or bottom above top"
    if n and not (labels.min() >= 0 and labels.max() < classes):
        return f"has labels in {labels.min()}..{labels.max()}; expected 0..{classes - 1}"
    if prediction.masks is None:
        return None
    if len(prediction.masks) != n:
        return f"has {len(prediction.masks)} masks of {n} objects; expected one each"
    for mask in prediction.masks:
        if list(mask["size"]) != [scene.height, scene.width]:
            return (
                f"has a mask of size {list(mask['size'])}; "
                f"expected [{scene.height}, {scene.width}], its image's"
            )
    return None


def _number(value: Any) -> Any:
    """NumPy's scalars as JSON's numbers."""
    return value.item()


# ---- Predictions on disk, and what makes them fit a split. They are saved before they are s


FORMAT = 1
# A third of the time of zlib's default level, for a quarter more bytes (drawn masks of 300 characters).
_LEVEL = 1
_ARRAYS = ("sizes", "found", "boxes", "scores", "labels")


@dataclass(frozen=True)
class SavedPredictions:
    """What a file of predictions holds.

    Attributes:
        scenes: name of the split.
        split: ``split_digest`` of the split, annotations included.
        classes: names, in the order of the labels.
        predictions: one of each scene, in the order of the split.
        extra: what the run wrote beside them (weights, engine, digest of the protocol ...).
    """

    scenes: str
    split: str
    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    extra: dict[str, Any]

    def check_split(self, scenes: Scenes) -> None:
        """Raise UserError unless these are predictions for exactly these annotated scenes."""
        if self.classes != scenes.classes:
            raise UserError(
                f"the predictions are for {len(self.classes)} classes ({_some(self.classes)}), "
                f"{scenes.name} has {len(scenes.classes)} ({_some(scenes.classes)}).\n"
                "Give the data that they were made on."
            )
        in_order(scenes, self.predictions)
        if self.split != split_digest(scenes):
            raise UserError(
                f"the predictions were made on {self.scenes} with other annotations than those of "
                f"{scenes.name} here ({self.split[:12]} there, {split_digest(scenes)[:12]} here).\n"
                "Give the data that they were made on."
            )


def save_predictions(
    path: Path,
    scenes: Scenes,
    predictions: Sequence[Prediction],  # of every scene, in any order
    extra: Mapping[str, Any] | None = None,  # plain settings and names; JSON must know them
) -> None:
    """Write one file, atomically; equal predictions give equal bytes.

    Raises:
        UserError: the predictions do not fit the split; see ``in_order``.
        RunFailed: the file cannot be written; an older one is untouched.
    """
    ordered = in_order(scenes, predictions)
    with_masks = any(p.masks is not None for p in ordered)
    without = [p.scene for p in ordered if p.masks is None and len(p.scores)]
    if with_masks and without:
        raise UserError(
            f"the prediction for scene {without[0]!r} of {scenes.name} has no masks, others have; "
            "expected masks of all or of none."
        )
    header = {
        "format": FORMAT,
        "scenes": scenes.name,
        "split": split_digest(scenes),
        "classes": scenes.classes,
        "ids": [scene.id for scene in scenes.scenes],
        "extra": plain(extra or {}),
    }
    arrays: dict[str, np.ndarray] = {
        "header": np.frombuffer(json.dumps(header, allow_nan=False).encode(), np.uint8),
        "sizes": np.array([(s.height, s.width) for s in scenes.scenes], np.int32).reshape(-1, 2),
        "found": np.array([len(p.scores) for p in ordered], np.int32),
        "boxes": np.concatenate([np.zeros((0, 4)), *(p.boxes for p in ordered)]).astype(np.float32),
        "scores": np.concatenate([np.zeros(0), *(p.scores for p in ordered)]).astype(np.float32),
        "labels": np.concatenate([np.zeros(0), *(p.labels for p in ordered)]).astype(np.int32),
    }
    if with_masks:
        counts = [characters(mask) for p in ordered for mask in p.masks or ()]
        arrays["mask_characters"] = np.array([len(text) for text in counts], np.int32)
        arrays["masks"] = np.frombuffer(b"".join(counts), np.uint8)
    write_atomically(path, _packed(arrays))


def load_predictions(path: Path) -> SavedPredictions:
    """Read what ``save_predictions`` wrote.

    Raises:
        UserError: no such file, not one of these, of another version, or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a file of saved predictions.")
    try:
        # Opened here: NumPy leaves a file open that is no archive.
        with open(path, "rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise UserError(
                f"{path} has format {header['format']!r}; expected {FORMAT}: it is of another version."
            )
        return SavedPredictions(
            scenes=header["scenes"],
            split=header["split"],
            classes=tuple(header["classes"]),
            predictions=_unpacked(header["ids"], arrays),
            extra=header["extra"],
        )
    except UserError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    # RuntimeError: marked as encrypted, or (NotImplementedError) as of a later kind of archive.
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise _damaged(path, error) from error


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as file:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, array, allow_pickle=False)
            # ZipInfo's own date is a constant, so that the bytes depend on the contents alone.
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, entry.getbuffer(), compresslevel=_LEVEL)
    return buffer.getvalue()


def _unpacked(ids: list[str | int], arrays: dict[str, np.ndarray]) -> tuple[Prediction, ...]:
    sizes, found, boxes, scores, labels = (arrays[name] for name in _ARRAYS)
    masks = _unpacked_masks(arrays, np.repeat(sizes, found, axis=0))
    ends = np.cumsum(found)
    if not len(ids) == len(sizes) == len(found) or (found < 0).any():
        raise ValueError("its arrays have different lengths")
    total = int(ends[-1]) if len(ends) else 0
    if not len(boxes) == len(scores) == len(labels) == total:
        raise ValueError("its arrays have different lengths")
    parts = list(zip(ids, (ends - found).tolist(), ends.tolist(), strict=True))
    for (scene, start, end), (height, width) in zip(parts, sizes.tolist(), strict=True):
        try:
            check_runs([] if masks is None else masks[start:end], height, width)
        except UserError as error:
            raise ValueError(f"scene {scene!r}: {error}") from error
    return tuple(
        Prediction(
            scene,
            boxes[start:end].astype(np.float32, copy=False),
            scores[start:end].astype(np.float32, copy=False),
            labels[start:end].astype(np.int64),
            None if masks is None else masks[start:end],
        )
        for scene, start, end in parts
    )


def _unpacked_masks(
    arrays: dict[str, np.ndarray],
    sizes: np.ndarray,  # (N, 2)
) -> tuple[dict[str, Any], ...] | None:
    if "masks" not in arrays:
        return None
    text = arrays["masks"].tobytes().decode("ascii")
    ends = np.cumsum(arrays["mask_characters"])
    if len(ends) != len(sizes) or len(text) != (ends[-1] if len(ends) else 0):
        raise ValueError("its masks have other lengths than it says")
    starts = ends - arrays["mask_characters"]
    return tuple(
        {"size": size, "counts": text[start:end]}
        for size, start, end in zip(sizes.tolist(), starts.tolist(), ends.tolist(), strict=True)
    )


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is not a whole file of saved predictions ({type(error).__name__}: {error}).\n"
        "Predict again, or give another file."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
