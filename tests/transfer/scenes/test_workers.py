"""What goes to worker processes, and what is said when one is lost."""

import pickle

import pytest
import torch

from msbreg.errors import RunFailed
from tests.transfer.scenes.folders import coco_content, write_coco
from transfer.engines.memory import memory_advice
from transfer.scenes.batches import _Testing, _Training
from transfer.scenes.mapper import MapperSettings
from transfer.scenes.named import load_scenes
from transfer.scenes.workers import PackedScenes, Samples, lost_worker


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    file, images = write_coco(folder, coco_content(images=[(n, 14, 20) for n in range(4)]))
    return load_scenes(f"coco:{file}:{images}", None).scenes


def test_packed_scenes_are_the_scenes(scenes):
    packed = PackedScenes(scenes)
    assert len(packed) == 4
    assert [packed[index] for index in (3, 0, 2)] == [scenes[index] for index in (3, 0, 2)]


@pytest.mark.parametrize(
    "make", [_Testing(MapperSettings()), _Training(MapperSettings(), seed=3, sized=True)]
)
def test_samples_reach_workers_that_are_spawned(scenes, make):
    samples = Samples(scenes, make)
    sent = pickle.loads(pickle.dumps(samples))
    assert torch.equal(sent[5, 2].image, samples[5, 2].image)
    assert sent[5, 2].scene == 2


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        ConnectionResetError(104, "Connection reset by peer"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"),
    ],
)
def test_a_lost_worker_is_told_with_what_to_do(error):
    assert "Give the same command again, with\nfewer --workers" in lost_worker(error)


def test_other_errors_are_not_taken_for_a_lost_worker():
    assert lost_worker(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert lost_worker(RuntimeError("Caught RuntimeError in DataLoader worker process 0.")) is None


def test_a_loss_that_a_signal_tells_in_the_midst_of_a_step_is_told_likewise():
    with pytest.raises(RunFailed, match="ended from outside"), memory_advice("lower something"):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
