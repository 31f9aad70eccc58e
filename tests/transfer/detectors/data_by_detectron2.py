"""Detectron2's mapper, sampler and grouping applied to our scenes; skipped if it is not installed."""

import warnings

import numpy as np
import pytest

from transfer.detectors import detectron2_engine


def detectron2_data():
    """The module ``detectron2.data``; skips the test if it is not installed."""
    if not detectron2_engine.available():
        pytest.skip("Detectron2 is not installed; frozen values stand for it")
    with warnings.catch_warnings():  # it calls torch.jit.script, which is deprecated
        warnings.simplefilter("ignore")
        return pytest.importorskip("detectron2.data")


def entry(scene, *, sized_boxes):
    """A scene as Detectron2's dictionary; ``sized_boxes`` as in COCO, otherwise corners as in VOC."""
    detectron2_data()
    from detectron2.structures import BoxMode

    annotations = []
    for instance in scene.instances:
        left, top, right, bottom = instance.box
        box = [left, top, right - left, bottom - top] if sized_boxes else list(instance.box)
        annotation = {
            "bbox": box,
            "bbox_mode": BoxMode.XYWH_ABS if sized_boxes else BoxMode.XYXY_ABS,
            "category_id": instance.label,
            "iscrowd": int(instance.crowd),
        }
        if instance.mask is not None:
            mask = instance.mask
            annotation["segmentation"] = mask if isinstance(mask, dict) else [list(r) for r in mask]
        if instance.keypoints is not None:
            annotation["keypoints"] = list(instance.keypoints)
        annotations.append(annotation)
    return {
        "file_name": str(scene.file),
        "image_id": scene.id,
        "height": scene.height,
        "width": scene.width,
        "annotations": annotations,
    }


def mapper(settings, training):
    """DatasetMapper with its default augmentation for our settings."""
    data = detectron2_data()
    from detectron2.config import get_cfg

    config = get_cfg()
    config.INPUT.FORMAT = settings.channels
    config.INPUT.MIN_SIZE_TRAIN = settings.train_sizes
    config.INPUT.MAX_SIZE_TRAIN = settings.train_longest
    config.INPUT.MIN_SIZE_TRAIN_SAMPLING = settings.sampling
    config.INPUT.RANDOM_FLIP = settings.flip
    config.INPUT.MIN_SIZE_TEST = settings.test_size
    config.INPUT.MAX_SIZE_TEST = settings.test_longest
    config.MODEL.MASK_ON = settings.masks is not None
    config.INPUT.MASK_FORMAT = settings.masks or "polygon"
    made = data.DatasetMapper(config, is_train=training)
    # Its config takes the mirrored keypoints from registered data sets.
    made.use_keypoint, made.keypoint_hflip_indices = settings.keypoints, settings.mirror
    return made


def mapped(scene, settings, seed, *, sized_boxes, training=True):
    """``mapped_entry`` of one of our scenes."""
    return mapped_entry(entry(scene, sized_boxes=sized_boxes), settings, seed, training=training)


def mapped_entry(given, settings, seed, *, training=True):
    """Detectron2's mapped dictionary, with its global generator seeded by ``seed``."""
    before = np.random.get_state()  # noqa: NPY002 - the generator that Detectron2 uses
    try:
        np.random.seed(seed)  # noqa: NPY002
        with warnings.catch_warnings():
            # pycocotools 2.0 does not support NumPy 2's __array__(copy=).
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            warnings.filterwarnings("ignore", "Creating a tensor from a list", UserWarning)
            # fvcore's vertical flip passes Pillow's read-only array to PyTorch.
            warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
            return mapper(settings, training)(given)
    finally:
        np.random.set_state(before)  # noqa: NPY002
