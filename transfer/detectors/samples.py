"""Batches of decoded samples, the same ones whatever the number of workers and wherever resumed."""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from msbreg.data.scenes import Instance, Scene, Scenes
from msbreg.run.errors import UserError
from transfer.detectors.decoding import Samples, decoded
from transfer.detectors.mapper import (
    MapperSettings,
    Sample,
    mask_problem,
    random_state,
    testing_sample,
    training_sample,
)
from transfer.detectors.sample_order import Key, share_of_batch, testing_share, training_keys


def training_batches(
    scenes: Scenes,
    settings: MapperSettings,
    *,
    batch: int,
    seed: int,
    first: int,
    rank: int,
    world: int,
    workers: int,
    group: bool = True,
) -> Generator[list[Sample]]:
    """This process's batches of iterations ``first``, first + 1, ..., until it is closed.

    Order and pixels are functions of seed, process and iteration: nothing else needs to be saved to
    continue. PyTorch's global generator is not touched.

    Args:
        scenes: to train on, already filtered (``catalog.without_empty``).
        batch: scenes of all processes together (SOLVER.IMS_PER_BATCH).
        seed: 0 or more; the same in all processes.
        rank, world: number of this process, and of all.
        workers: processes that decode; 0 decodes here.
        group: whether wide and high images come in batches of their own
            (DATALOADER.ASPECT_RATIO_GROUPING).

    Raises:
        UserError: at once, if the batch cannot be shared or masks are not as the settings want them;
            later, naming the file, if an image cannot be read.
    """
    _check_masks(scenes, settings)
    share = share_of_batch(batch, world)
    wide = [scene.width > scene.height for scene in scenes.scenes]
    shapes: Sequence[bool] | int = wide if group else len(wide)

    def keys() -> Iterator[list[Key]]:
        return training_keys(shapes, share, seed, rank=rank, world=world, first=first)

    make = _Training(settings, seed, sized=scenes.sized_boxes)
    return decoded(Samples(scenes.scenes, make), keys, workers)


def testing_batches(
    scenes: Scenes,
    settings: MapperSettings,
    *,
    rank: int,
    world: int,
    workers: int,
) -> Generator[list[Sample]]:
    """This process's share of the scenes, in order, one per batch; the caller closes it.

    Raises:
        UserError: an image cannot be read; the message names it. In this process alone, as the
            shares of processes differ in length.
    """

    def keys() -> Iterator[list[Key]]:
        share = testing_share(len(scenes.scenes), rank=rank, world=world)
        return ([(index, index)] for index in share)

    return decoded(Samples(scenes.scenes, _Testing(settings)), keys, workers)


@dataclass(frozen=True)
class _Training:
    """Makes samples to train on; a class, because spawned workers receive it by pickle."""

    settings: MapperSettings
    seed: int
    sized: bool

    def __call__(self, scene: Scene, position: int) -> Sample:
        random = random_state(self.seed, position)
        return training_sample(scene, self.settings, random, sized_boxes=self.sized)


@dataclass(frozen=True)
class _Testing:
    """Makes samples to test on."""

    settings: MapperSettings

    def __call__(self, scene: Scene, position: int) -> Sample:
        return testing_sample(scene, self.settings)


def _check_masks(scenes: Scenes, settings: MapperSettings) -> None:
    """Every object that is trained on has a mask in a form that the settings can use.

    Raises:
        UserError: one has not; its image is named.
    """

    def unusable(instance: Instance) -> bool:
        if settings.masks is None or instance.crowd:
            return False
        return instance.mask is None or (
            settings.masks == "polygon" and isinstance(instance.mask, dict)
        )

    for scene in scenes.scenes:
        if any(map(unusable, scene.instances)):
            raise UserError(f"{scenes.name}: {mask_problem(scene, settings.masks or '')}")
