"""Our crops, inputs and scores equal those of MMSegmentation's transforms, loaders and evaluator."""

import numpy as np
import pytest
import torch

from msbreg.backbones.spec import BackboneSpec
from msbreg.data.segmentation.map_sources import open_label_maps
from msbreg.run.files import write_atomically
from tests.msbreg.data.segmentation.map_trees import folders_tree
from tests.transfer.segmenters.mmseg_frozen_numbers import scene
from tests.transfer.segmenters.mmseg_twin import (
    engine,
    its_warnings,
    needs_mmseg,
    numpy_seed,
    their_crop,
)
from transfer.scoring.iou import SegmentationScores, confusion
from transfer.segmenters.crops import collate, normalized, training_crop
from transfer.segmenters.mmseg_config import config_text
from transfer.segmenters.segmentation_config import AugmentationOptions, Config

pytestmark = needs_mmseg
NAMES = tuple("abcdef")

AUGMENTATIONS = {
    "voc": {"crop": (40, 48), "base": (96, 72), "largest_class": 0.75, "photometric": True},
    "padded": {"crop": (90, 80), "base": (64, 64), "scales": (0.5, 1.0)},
    "own size": {"crop": (33, 50), "scales": (0.5, 2.0)},
    "mirrored": {"crop": (30, 30), "scales": (1.0, 1.0), "flip": 1.0},
    "one class": {"crop": (8, 9), "largest_class": 0.5},
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("seed", range(12))
def test_crops_are_bit_for_bit_equal(name, seed):
    options = AugmentationOptions(**AUGMENTATIONS[name])
    image, labels = training_crop(*scene(seed), options, np.random.RandomState(seed))
    their_image, their_labels = their_crop(*scene(seed), options, seed)
    assert image.dtype == their_image.dtype == np.uint8
    assert np.array_equal(image, their_image)
    assert np.array_equal(labels, their_labels)


@pytest.mark.parametrize("base", [(64, 48), None])
def test_a_written_config_loads_our_source_into_its_loader(tmp_path, base):
    engine()
    from mmengine.config import Config as TheirConfig
    from mmengine.registry import DefaultScope
    from mmseg.registry import DATASETS, MODELS

    root = folders_tree(tmp_path / "data")
    options = AugmentationOptions(crop=(24, 40), base=base, photometric=True)
    config = Config(checkpoint="random", data=f"folders:{root}", augmentation=options)
    source = open_label_maps(config.data, "train")
    spec = BackboneSpec("resnet18")
    write_atomically(
        tmp_path / "config.py", config_text(config, spec, source.classes, 0.1).encode()
    )
    with its_warnings(), DefaultScope.overwrite_default_scope("mmseg"):
        settings = TheirConfig.fromfile(tmp_path / "config.py")
        dataset = DATASETS.build(settings.train_dataloader.dataset)
        preprocess = MODELS.build(settings.model.data_preprocessor)
    assert len(dataset) == len(source)
    assert dataset.metainfo["classes"] == source.classes
    with numpy_seed(3):
        sample = dataset[1]
    crop = training_crop(source.image(1), source.label(1), options, np.random.RandomState(3))
    batch = collate([crop], options.crop)
    x = normalized(batch.pixels, batch.sizes, spec.normalization)
    data = {"inputs": [sample["inputs"]], "data_samples": [sample["data_samples"]]}
    found = preprocess(data, training=True)
    assert torch.equal(found["inputs"], x)
    assert torch.equal(found["data_samples"][0].gt_sem_seg.data[0], batch.labels[0].long())


def maps(seed: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A truth with void pixels and without the classes 2 and 5, a prediction without 4 and 5."""
    random = np.random.default_rng(seed)
    truth = random.choice([0, 1, 3, 4, 255], shape).astype(np.uint8)
    guess = random.integers(0, 4, shape).astype(np.uint8)
    return truth, np.where(random.random(shape) < 0.6, np.minimum(truth, 3), guess).astype(np.uint8)


@pytest.mark.parametrize("shapes", [[(13, 17)], [(1, 29), (31, 2), (64, 65)]])
def test_scores_equal_those_of_its_evaluator(shapes):
    engine()
    from mmseg.evaluation import IoUMetric

    pairs = [maps(seed, shape) for seed, shape in enumerate(shapes)]
    with its_warnings():
        metric = IoUMetric(iou_metrics=["mIoU"])
        metric.dataset_meta = {"classes": NAMES}
        for truth, predicted in pairs:
            data = {
                "pred_sem_seg": {"data": torch.from_numpy(predicted)[None].long()},
                "gt_sem_seg": {"data": torch.from_numpy(truth)[None].long()},
            }
            metric.process({}, [data])
        areas = [sum(column) for column in zip(*metric.results, strict=True)]
        each = metric.total_area_to_metrics(*areas, ["mIoU"])
        rounded = metric.compute_metrics(metric.results)
    scores = SegmentationScores(NAMES, sum(confusion(t, p, len(NAMES)) for t, p in pairs))
    # It divides in float32, and rounds the summary to two digits.
    np.testing.assert_allclose(scores.iou, 100 * each["IoU"], rtol=1e-6)
    assert np.isnan(scores.iou).tolist() == [False] * 5 + [True]
    assert scores.pixel_accuracy == pytest.approx(100 * float(each["aAcc"]), rel=1e-6)
    assert scores.mean_iou == pytest.approx(rounded["mIoU"], abs=0.0051)
