"""MMSegmentation's own model, optimizer, transforms and inference, from the config that a run writes.

Imports MMSegmentation only inside of functions, so that tests can be collected without it.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from tests.transfer.segmenters.mmseg_cases import CLASSES, RATE, Case, batch_of
from transfer.segmenters import segmenter_engine
from transfer.segmenters.crops import Batch
from transfer.segmenters.mmseg_config import config_text, training_pipeline
from transfer.segmenters.segmentation_config import AugmentationOptions, Config
from transfer.segmenters.segmenter_engine import Engine, choose

needs_mmseg = pytest.mark.skipif(
    not segmenter_engine.mmseg_is_installed(),
    reason="compares with MMSegmentation, which is not installed",
)


def engine() -> Engine:
    """The MMSegmentation engine."""
    return choose("mmseg")


@contextlib.contextmanager
def its_warnings() -> Iterator[None]:
    """Ignore MMSegmentation's advice about its options, and deprecations in what it imports."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Twin:
    """MMSegmentation's EncoderDecoder and solver of a case.

    Attributes:
        settings: the config file of the case, as mmengine reads it.
        model: EncoderDecoder with its data preprocessor and test_cfg.
    """

    def __init__(self, case: Case, state: dict[str, torch.Tensor]) -> None:
        engine()
        from mmengine.config import Config as TheirConfig
        from mmengine.optim import build_optim_wrapper
        from mmengine.registry import PARAM_SCHEDULERS, DefaultScope
        from mmseg.registry import MODELS

        self.case = case
        text = config_text(case.config, case.spec, CLASSES, RATE)
        self.settings: Any = TheirConfig.fromstring(text, ".py")
        with its_warnings(), DefaultScope.overwrite_default_scope("mmseg"):
            self.model: Any = MODELS.build(self.settings["model"])
            self.model.load_state_dict(state)
            self.optimizer: Any = build_optim_wrapper(self.model, self.settings["optim_wrapper"])
            self.schedulers: list[Any] = [
                PARAM_SCHEDULERS.build({**one, "optimizer": self.optimizer})
                for one in self.settings["param_scheduler"]
            ]

    def inputs(self, batch: Batch) -> dict[str, Any]:
        """A batch after MMSegmentation's preprocessor, from crops in BGR."""
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        images, samples = [], []
        for pixels, labels, (height, width) in zip(
            batch.pixels, batch.labels, batch.sizes.tolist(), strict=True
        ):
            images.append(pixels[:, :height, :width].flip(0))
            sample = SegDataSample()
            sample.gt_sem_seg = PixelData(data=labels[None, :height, :width].long())
            samples.append(sample)
        self.model.data_preprocessor.size = (self.case.side, self.case.side)
        data: dict[str, Any] = self.model.data_preprocessor(
            {"inputs": images, "data_samples": samples}, training=True
        )
        return data

    def losses(self, step: int) -> dict[str, torch.Tensor]:
        """All that EncoderDecoder.loss returns for the batch of a step."""
        torch.manual_seed(step)  # of dropout
        with its_warnings():
            found: dict[str, torch.Tensor] = self.model.loss(
                **self.inputs(batch_of(self.case, step))
            )
        return found

    def train_step(self, step: int) -> dict[str, float]:
        """A step of its optimizer and schedule; the losses."""
        losses = self.losses(step)
        total, log = self.model.parse_losses(losses)
        self.optimizer.update_params(total)
        self.step_schedule()
        return {name: float(value.detach()) for name, value in log.items()}

    def step_schedule(self) -> None:
        """Move on to the learning rate of the next step."""
        for scheduler in self.schedulers:
            with its_warnings():
                scheduler.step()

    def resized(self, logits: torch.Tensor, metas: list[dict[str, Any]]) -> torch.Tensor:
        """Logits at the size of the images."""
        with its_warnings():
            resized: torch.Tensor = self.model.decode_head.predict_by_feat(logits, metas)
        return resized

    # ---- Inference

    def scores(self, image: np.ndarray) -> torch.Tensor:
        """Logits of an image at its own size; means of probabilities with test-time augmentation."""
        samples = self._predicted(image)
        if len(samples) == 1:
            logits: torch.Tensor = samples[0].seg_logits.data
            return logits
        return torch.stack([s.seg_logits.data.softmax(0) for s in samples]).mean(0)

    def labels(self, image: np.ndarray) -> np.ndarray:
        """The labels of an image, by SegTTAModel with test-time augmentation."""
        samples = self._predicted(image)
        if len(samples) == 1:
            labels = samples[0].pred_sem_seg.data
        else:
            from mmseg.models import SegTTAModel

            with its_warnings():
                (merged,) = SegTTAModel(module=self.model).merge_preds([samples])
            labels = merged.pred_sem_seg.data
        return labels.squeeze().numpy().astype(np.uint8)

    @torch.no_grad()
    def _predicted(self, image: np.ndarray) -> list[Any]:
        """Its predictions for an image, one for each scale and flip."""
        packed = self._packed(image)
        self.model.eval()
        found = []
        for pixels, sample in zip(packed["inputs"], packed["data_samples"], strict=True):
            data = {"inputs": [pixels], "data_samples": [sample]}
            with its_warnings():
                found += self.model.predict(**self.model.data_preprocessor(data))
        return found

    def _packed(self, image: np.ndarray) -> dict[str, list[Any]]:
        """An image after the config's test pipeline, or that of test-time augmentation."""
        from mmcv.transforms import Compose
        from mmengine.registry import DefaultScope

        averaged = "tta_pipeline" in self.settings
        loader = self.settings.test_dataloader
        pipeline = self.settings.tta_pipeline if averaged else loader.dataset.pipeline
        with its_warnings(), DefaultScope.overwrite_default_scope("mmseg"):
            results = Compose(pipeline)(information(image, np.zeros(image.shape[:2], np.uint8)))
        if not averaged:
            return {key: [value] for key, value in results.items()}
        return results


class OneImage:
    """A source of a single image with labels."""

    def __init__(self, image: np.ndarray, labels: np.ndarray) -> None:
        self.pair = image, labels

    def image(self, i: int) -> np.ndarray:
        return self.pair[0]

    def label(self, i: int) -> np.ndarray:
        return self.pair[1]


def information(image: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """What a dataset gives to its pipeline."""
    return {
        "source": OneImage(image, labels),
        "index": 0,
        "seg_fields": [],
        "reduce_zero_label": False,
        "img_path": "one.png",
    }


def their_crop(
    image: np.ndarray, labels: np.ndarray, options: AugmentationOptions, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The crop that MMSegmentation makes with this state of NumPy's generator; RGB in and out."""
    engine()
    from mmseg.registry import TRANSFORMS

    results = information(image, labels)
    with numpy_seed(seed):
        for settings in training_pipeline(Config(augmentation=options))[:-1]:
            results = TRANSFORMS.build(settings)(results)
    return results["img"][..., ::-1], results["gt_seg_map"]


@contextlib.contextmanager
def numpy_seed(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator, which mmcv's transforms use, and restore it."""
    before = np.random.get_state()  # noqa: NPY002
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002
