"""Batches are functions of seed, process and iteration, also after resuming and with other workers."""

from itertools import islice

import numpy as np
import pytest
import torch

from msbreg.data.scenes import Instance, Scene, Scenes
from msbreg.run.errors import UserError
from tests.msbreg.data.annotated_folders import coco_content, noise, write_coco
from tests.processes import run_pair
from transfer.detectors.mapper import MapperSettings, testing_sample
from transfer.detectors.samples import testing_batches, training_batches

testing_batches.__test__ = testing_sample.__test__ = False
CPU = torch.device("cpu")
SETTINGS = MapperSettings(
    train_sizes=tuple(range(12, 30)), train_longest=40, test_size=16, masks="polygon"
)
TRIANGLE = ((2.0, 2.0, 9.0, 2.0, 2.0, 9.0),)


@pytest.fixture
def scenes(tmp_path):
    found = []
    for number in range(7):
        height, width = (14, 20) if number % 3 else (20, 12)
        file = tmp_path / f"{number}.png"
        noise(height, width, number).save(file)
        instances = tuple(
            Instance((2.0, 2.0, 9.0, 9.0), label, TRIANGLE) for label in range(number % 3)
        )
        found.append(Scene(number, file, height, width, instances))
    return Scenes("toy", ("a", "b", "c"), tuple(found), category_ids=(1, 2, 3))


def batches(scenes, count, *, first=0, workers=0, rank=0, world=1, settings=SETTINGS, **options):
    options = {"batch": 2, "seed": 4} | options
    stream = training_batches(
        scenes,
        settings,
        first=first,
        rank=rank,
        world=world,
        workers=workers,
        **options,
    )
    return list(islice(stream, count))


def content(sample):
    """The content of a sample in a form that == can compare."""
    return (
        sample.scene,
        sample.height,
        sample.width,
        sample.image.shape,
        sample.image.numpy().tobytes(),
        None if sample.boxes is None else sample.boxes.tolist(),
        None if sample.labels is None else sample.labels.tolist(),
        None
        if sample.polygons is None
        else [[ring.tolist() for ring in rings] for rings in sample.polygons],
        None if sample.bitmasks is None else sample.bitmasks.numpy().tobytes(),
    )


def contents(found):
    return [[content(sample) for sample in batch] for batch in found]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("masks", ["polygon", "bitmask", None])
def test_a_resumed_run_sees_the_batches_of_an_uninterrupted_one(scenes, workers, masks):
    settings = MapperSettings(train_sizes=SETTINGS.train_sizes, train_longest=40, masks=masks)
    whole = contents(batches(scenes, 12, settings=settings))
    later = contents(batches(scenes, 5, first=7, workers=workers, settings=settings))
    assert later == whole[7:]


def test_the_number_of_workers_does_not_change_the_batches(scenes):
    alone = contents(batches(scenes, 9))
    assert contents(batches(scenes, 9, workers=2)) == alone
    assert contents(batches(scenes, 9, workers=1)) == alone
    assert contents(batches(scenes, 9, seed=5)) != alone


def test_an_image_is_augmented_differently_each_time(scenes):
    shapes = [s.image.shape for b in batches(scenes, 30) for s in b if s.scene == 1]
    assert len(set(shapes)) > 2


def test_two_processes_together_see_the_samples_of_one(scenes):
    alone = {repr(content(s)) for batch in batches(scenes, 12, group=False) for s in batch}
    shares = [batches(scenes, 12, rank=rank, world=2, group=False) for rank in (0, 1)]
    together = {repr(content(s)) for share in shares for batch in share for s in batch}
    assert together == alone
    assert {len(batch) for share in shares for batch in share} == {1}


def test_grouping_of_wide_images_can_be_turned_off(scenes):
    grouped = batches(scenes, 20)
    assert all(len({s.width > s.height for s in batch}) == 1 for batch in grouped)
    plain = batches(scenes, 20, group=False)
    assert any(len({s.width > s.height for s in batch}) == 2 for batch in plain)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_complete_and_do_not_share_memory(scenes, workers):
    sample = next(s for b in batches(scenes, 9, workers=workers) for s in b if s.scene == 2)
    assert sample.image.dtype == torch.uint8
    assert sample.image.is_contiguous()
    assert (sample.boxes.dtype, sample.boxes.shape) == (torch.float32, (2, 4))
    assert (sample.labels.dtype, sample.labels.tolist()) == (torch.int64, [0, 1])
    assert [len(rings) for rings in sample.polygons] == [1, 1]
    assert sample.polygons[0][0].dtype == np.float64


@pytest.mark.parametrize("workers", [0, 1])
def test_pytorchs_global_generator_is_not_used(scenes, workers):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the one that must not be used
    batches(scenes, 2, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_decoded_is_named_without_a_traceback(scenes, workers):
    scenes.scenes[3].file.write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"3\.png cannot be decoded") as caught:
        batches(scenes, 9, workers=workers)
    assert "Traceback" not in str(caught.value)
    assert "then run the same command again" in str(caught.value)


def without_mask(scenes, mask, **changes):
    odd = Scene(9, scenes.scenes[0].file, 20, 12, (Instance((2.0, 2, 9, 9), 0, mask, **changes),))
    return Scenes("odd", scenes.classes, (*scenes.scenes, odd), scenes.category_ids)


def test_masks_are_checked_before_anything_is_decoded(scenes):
    runs = {"size": [20, 12], "counts": [240]}
    with pytest.raises(UserError, match="odd: image 9 .* has an object without a mask"):
        batches(without_mask(scenes, None), 0)
    with pytest.raises(UserError, match="odd: image 9 .*set INPUT.MASK_FORMAT to bitmask"):
        batches(without_mask(scenes, runs), 0)
    assert batches(without_mask(scenes, runs, crowd=True), 0) == []
    assert batches(without_mask(scenes, None), 0, settings=MapperSettings()) == []


def test_a_batch_that_cannot_be_divided_among_processes_is_named(scenes):
    with pytest.raises(UserError, match="IMS_PER_BATCH is 3 with 2 processes"):
        batches(scenes, 1, batch=3, world=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_test_batches_follow_the_order_of_the_scenes(scenes, workers):
    expected = [content(testing_sample(scene, SETTINGS)) for scene in scenes.scenes]
    for world in (1, 2):
        found = []
        for rank in range(world):
            stream = testing_batches(scenes, SETTINGS, rank=rank, world=world, workers=workers)
            found += [content(sample) for (sample,) in stream]
        assert found == expected


def test_all_processes_stop_if_one_cannot_read_an_image(tmp_path):
    write_coco(tmp_path, coco_content(images=[(n, 14, 20) for n in range(6)]))
    (tmp_path / "images" / "5.png").write_bytes(b"not an image")
    assert run_pair("tests.transfer.detectors.reading_worker", tmp_path) == [0, 0]
    first, second = ((tmp_path / f"{rank}.txt").read_text() for rank in (0, 1))
    assert first == second
    assert "5.png cannot be decoded" in first
    first, second = ((tmp_path / f"{rank}-tested.txt").read_text() for rank in (0, 1))
    assert first == second
    assert "5.png cannot be decoded" in first
    assert [(tmp_path / f"{rank}-found.txt").read_text() for rank in (0, 1)] == ["0 1 2 3 4 5"] * 2
