"""What a detector says about every scene, whichever engine made it."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from msbreg import distributed
from msbreg.config import Interrupted
from msbreg.errors import UserError
from msbreg.progress import Progress
from transfer.scenes.batches import testing_batches
from transfer.scenes.mapper import MapperSettings
from transfer.scenes.masks import encode
from transfer.scenes.order import testing_share
from transfer.scenes.sample import Sample
from transfer.scenes.types import Prediction, Scenes


@torch.no_grad()
def predict(
    model: nn.Module,
    scenes: Scenes,
    settings: MapperSettings,
    *,
    workers: int = 0,
    each_scene: Callable[[], None] = lambda: None,
) -> list[Prediction]:
    """Predictions for all scenes, in their order, on every process; the model is left in eval mode.

    Images pass one by one, as in Detectron2: in a batch, padding would move boxes by rounding.

    Args:
        workers: processes that decode images.
        each_scene: called after each; may raise to stop.

    Raises:
        UserError: an image cannot be read; on every process, once all have gone through their shares.
    """
    model.eval()
    world, rank = distributed.world_size(), distributed.rank()
    mine = len(testing_share(len(scenes.scenes), rank=rank, world=world))
    found: list[Prediction] = []
    batches = testing_batches(scenes, settings, rank=rank, world=world, workers=workers)
    failure: UserError | Interrupted | None = None
    try:
        with Progress("predicting", mine, unit="images") as progress:
            for (sample,) in batches:
                found.append(_prediction(model, sample))
                progress.update(len(found))
                each_scene()
    # Raised on every process, or the others would wait for this one for ever.
    except (UserError, Interrupted) as error:
        failure = error
    shares = distributed.gather_objects((found, failure))
    for _, other in shares:
        if other is not None:
            raise other
    return [prediction for share, _ in shares for prediction in share]


def _prediction(model: nn.Module, sample: Sample) -> Prediction:
    (found,) = model([sample])
    return Prediction(
        sample.scene,
        boxes=found.boxes.float().cpu().numpy(),
        scores=found.scores.float().cpu().numpy(),
        labels=found.labels.cpu().numpy().astype(np.int64),
        masks=None if found.masks is None else encode(found.masks.cpu().numpy()),
    )
