"""Predictions on disk, and checks that they match a split. They are saved before they are scored."""

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
    """SHA-256 of everything in a split that affects a score, except for folders and pixels.

    It covers classes, ids, sizes and annotations, the year, which determines the metric, and the federation.
    The sigmas of keypoints are a setting of the metric.
    """
    head: list[Any] = [scenes.classes, scenes.category_ids, scenes.year]
    if scenes.keypoints is not None:
        head.append(scenes.keypoints.names)
    if (federation := scenes.federation) is not None:
        head.append(federation.frequencies)
        head += [
            [(s.id, sorted(of_scene.get(s.id, ()))) for s in scenes.scenes]
            for of_scene in (federation.absent, federation.incomplete)
        ]
    digest = hashlib.sha256(json.dumps(head).encode())
    for scene in scenes.scenes:
        objects: list[Any] = [
            (o.box, o.label, o.mask, o.area, o.crowd, o.difficult) for o in scene.instances
        ]
        if scenes.keypoints is not None:
            objects += [o.keypoints for o in scene.instances]
        content = [scene.id, scene.height, scene.width, objects]
        digest.update(json.dumps(content, default=_number).encode())
    return digest.hexdigest()


def in_order(scenes: Scenes, predictions: Sequence[Prediction]) -> list[Prediction]:
    """The predictions in the order of the split.

    Raises:
        UserError: a scene has no prediction (if nothing is found, an entry of length 0 is expected) or two,
            or is not in the split; shapes differ from those of ``Prediction``; scores or boxes are not
            finite; the edges of a box are swapped; a label is not a class; a mask and its image differ in
            size.
    """
    known = {scene.id: scene for scene in scenes.scenes}
    by_scene: dict[str | int, Prediction] = {}
    for prediction in predictions:
        if prediction.scene not in known:
            raise UserError(
                f"a prediction is for scene {prediction.scene!r}, which is not one of the "
                f"{len(known)} of {scenes.name}.\nUse the split that the predictions were made for."
            )
        if prediction.scene in by_scene:
            raise UserError(
                f"scene {prediction.scene!r} of {scenes.name} has two predictions; expected one."
            )
        by_scene[prediction.scene] = prediction
    absent = [scene.id for scene in scenes.scenes if scene.id not in by_scene]
    if absent:
        raise UserError(
            f"{len(absent)} of the {len(known)} scenes of {scenes.name} have no prediction, for "
            f"example {absent[0]!r}; expected an entry for each, of length 0 if nothing was found."
        )
    for scene in scenes.scenes:
        wrong = _misfit(scene, by_scene[scene.id], len(scenes.classes))
        if wrong:
            raise UserError(f"the prediction for scene {scene.id!r} of {scenes.name} {wrong}.")
    return [by_scene[scene.id] for scene in scenes.scenes]


def _misfit(scene: Scene, prediction: Prediction, classes: int) -> str | None:
    """What is wrong with a prediction, as a predicate; None if it is valid."""
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
    points = prediction.keypoints
    if points is not None and (points.ndim != 3 or (len(points), points.shape[2]) != (n, 3)):
        return f"has keypoints of shape {points.shape}; expected ({n}, K, 3)"
    if points is not None and not np.isfinite(points).all():
        return "has keypoints that are not finite numbers; the detector diverged"
    if prediction.masks is None:
        return None
    if len(prediction.masks) != n:
        return f"has {len(prediction.masks)} masks for {n} objects; expected one for each"
    for mask in prediction.masks:
        if list(mask["size"]) != [scene.height, scene.width]:
            return (
                f"has a mask of size {list(mask['size'])}; "
                f"expected [{scene.height}, {scene.width}], its image's"
            )
    return None


def _number(value: Any) -> Any:
    """Convert a NumPy scalar for JSON."""
    return value.item()


# ---- Files


FORMAT = 1
# Takes a third of the time of zlib's default level and a quarter more bytes (for masks of 300 characters).
_LEVEL = 1
_ARRAYS = ("sizes", "found", "boxes", "scores", "labels")


@dataclass(frozen=True)
class SavedPredictions:
    """Content of a predictions file.

    Attributes:
        scenes: name of the split.
        split: ``split_digest`` of the split, annotations included.
        classes: names, in label order.
        predictions: one for each scene, in the order of the split.
        extra: what the run wrote in addition (weights, engine, digest of the protocol, ...).
    """

    scenes: str
    split: str
    classes: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    extra: dict[str, Any]

    def check_split(self, scenes: Scenes) -> None:
        """Raise UserError unless the predictions are for exactly these scenes and annotations."""
        if self.classes != scenes.classes:
            raise UserError(
                f"the predictions are for {len(self.classes)} classes ({_some(self.classes)}); "
                f"{scenes.name} has {len(scenes.classes)} ({_some(scenes.classes)}).\n"
                "Use the data that they were made on."
            )
        in_order(scenes, self.predictions)
        if self.split != split_digest(scenes):
            raise UserError(
                f"the predictions were made on {self.scenes} with annotations that differ from those of "
                f"{scenes.name} (digest {self.split[:12]}, now {split_digest(scenes)[:12]}).\n"
                "Use the data that they were made on."
            )


def save_predictions(
    path: Path,
    scenes: Scenes,
    predictions: Sequence[Prediction],  # of every scene, in any order
    extra: Mapping[str, Any] | None = None,  # JSON-serializable settings and names
) -> None:
    """Write a file atomically; equal predictions give equal bytes.

    Raises:
        UserError: the predictions do not match the split; see ``in_order``.
        RunFailed: the file cannot be written; an existing one is unchanged.
    """
    ordered = in_order(scenes, predictions)
    with_masks = any(p.masks is not None for p in ordered)
    without = [p.scene for p in ordered if p.masks is None and len(p.scores)]
    if with_masks and without:
        raise UserError(
            f"the prediction for scene {without[0]!r} of {scenes.name} has no masks, but others have; "
            "expected masks for all or for none."
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
    keypoints = [p.keypoints for p in ordered if p.keypoints is not None]
    if keypoints and len(keypoints) == len(ordered):
        arrays["keypoints"] = np.concatenate(keypoints).astype(np.float32)
    if with_masks:
        counts = [characters(mask) for p in ordered for mask in p.masks or ()]
        arrays["mask_characters"] = np.array([len(text) for text in counts], np.int32)
        arrays["masks"] = np.frombuffer(b"".join(counts), np.uint8)
    write_atomically(path, packed(arrays))


def load_predictions(path: Path) -> SavedPredictions:
    """Read what ``save_predictions`` wrote.

    Raises:
        UserError: the file does not exist, has another format or version, or is damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a file of predictions.")
    try:
        # Opened here, since NumPy does not close files that are not archives.
        with open(path, "rb") as content:
            if content.read(4) != b"PK\3\4":  # NumPy would advise to load it as a pickle
                raise UserError(
                    f"{path} is not a valid predictions file: it is not an .npz archive.\n"
                    "Give another file."
                )
            content.seek(0)
            with np.load(content, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays["header"].tobytes())
        if header["format"] != FORMAT:
            raise UserError(f"{path} has format {header['format']!r}; this version reads {FORMAT}.")
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
    # RuntimeError: the archive is encrypted or (NotImplementedError) has an unsupported version.
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise _damaged(path, error) from error


def packed(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz archive; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as file:
        for name, array in arrays.items():
            entry = io.BytesIO()
            np.lib.format.write_array(entry, array, allow_pickle=False)
            # ZipInfo's default date is constant, so that the bytes depend on the content only.
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, entry.getbuffer(), compresslevel=_LEVEL)
    return buffer.getvalue()


def _unpacked(ids: list[str | int], arrays: dict[str, np.ndarray]) -> tuple[Prediction, ...]:
    sizes, found, boxes, scores, labels = (arrays[name] for name in _ARRAYS)
    masks = _unpacked_masks(arrays, np.repeat(sizes, found, axis=0))
    keypoints = arrays.get("keypoints")
    ends = np.cumsum(found)
    if not len(ids) == len(sizes) == len(found) or (found < 0).any():
        raise ValueError("its arrays have different lengths")
    total = int(ends[-1]) if len(ends) else 0
    equal = len(boxes) == len(scores) == len(labels) == total
    if not equal or (keypoints is not None and len(keypoints) != total):
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
            None if keypoints is None else keypoints[start:end],
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
        raise ValueError("its masks do not have the stated lengths")
    starts = ends - arrays["mask_characters"]
    return tuple(
        {"size": size, "counts": text[start:end]}
        for size, start, end in zip(sizes.tolist(), starts.tolist(), ends.tolist(), strict=True)
    )


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path} is not a valid predictions file ({type(error).__name__}: {error}).\n"
        "Repeat the evaluation, or give another file."
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
