"""What goes to worker processes, and what is said when one is lost."""

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import torch
from transfer.detectors.memory import memory_advice

from msbreg.data.catalog import load_scenes
from msbreg.run.errors import RunFailed
from tests.msbreg.data.annotated_folders import coco_content, write_coco
from transfer.detectors.decoding import PackedScenes, Samples, lost_worker
from transfer.detectors.mapper import MapperSettings
from transfer.detectors.samples import _Testing, _Training, testing_batches

testing_batches.__test__ = False


@pytest.fixture(scope="module")
def scenes_object(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    file, images = write_coco(folder, coco_content(images=[(n, 14, 20) for n in range(4)]))
    return load_scenes(f"coco:{file}:{images}", None)


@pytest.fixture(scope="module")
def scenes(scenes_object):
    return scenes_object.scenes


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


def stream_of(scenes):
    return testing_batches(scenes, MapperSettings(test_size=12), rank=0, world=1, workers=1)


def children_since(before):
    """Other tests of this process may have left some of theirs (joblib keeps its own)."""
    return [child for child in multiprocessing.active_children() if child not in before]


def test_workers_end_with_the_batches_whatever_a_traceback_holds(scenes_object):
    before = multiprocessing.active_children()

    def use():
        with closing(stream_of(scenes_object)) as stream:
            next(stream)
            assert len(children_since(before)) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as held:
        use()
    assert held.value.__traceback__ is not None
    assert not children_since(before)


def test_a_group_signal_does_not_end_workers(scenes_object):
    before = multiprocessing.active_children()
    with closing(stream_of(scenes_object)) as stream:
        first = next(stream)
        (worker,) = children_since(before)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
        assert [sample.scene for (sample,) in [first, *stream]] == [0, 1, 2, 3]


FAILS = """
import sys
from pathlib import Path
import torch
from transfer.detectors.samples import testing_batches
from transfer.detectors.mapper import MapperSettings
from msbreg.data.catalog import load_scenes

def fail(stream):
    next(stream)
    raise ZeroDivisionError("an error of the program")

scenes = load_scenes(f"coco:instances.json:images", Path(sys.argv[1]))
fail(testing_batches(scenes, MapperSettings(test_size=12), rank=0, world=1, workers=2))
"""


def test_a_process_that_fails_with_its_batches_open_ends(tmp_path):
    """Workers ignore the SIGTERM with which Python ends children; it would wait for them for ever."""
    write_coco(tmp_path, coco_content(images=[(n, 14, 20) for n in range(9)]))
    (tmp_path / "fails.py").write_text(FAILS)
    root = Path(__file__).resolve().parents[3]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "fails.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("ZeroDivisionError: an error of the program")


def test_workers_that_cannot_be_started_are_told_with_what_to_do(scenes_object, monkeypatch):
    def fork():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with (
        closing(stream_of(scenes_object)) as stream,
        pytest.raises(RunFailed, match=r"cannot be started: Resource .*\.\n.* fewer --workers"),
    ):
        next(stream)
