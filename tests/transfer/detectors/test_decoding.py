"""What is sent to worker processes that decode scenes."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from msbreg.data.catalog import load_scenes
from tests.msbreg.data.annotated_folders import coco_content, write_coco
from transfer.detectors.mapper import MapperSettings
from transfer.detectors.samples import PackedScenes, Samples, _Testing, _Training, testing_batches

testing_batches.__test__ = False


@pytest.fixture(scope="module")
def scenes_object(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    file, images = write_coco(folder, coco_content(images=[(n, 14, 20) for n in range(4)]))
    return load_scenes(f"coco:{file}:{images}", None)


@pytest.fixture(scope="module")
def scenes(scenes_object):
    return scenes_object.scenes


def test_packed_scenes_equal_the_scenes(scenes):
    packed = PackedScenes(scenes)
    assert len(packed) == 4
    assert [packed[index] for index in (3, 0, 2)] == [scenes[index] for index in (3, 0, 2)]


@pytest.mark.parametrize(
    "make", [_Testing(MapperSettings()), _Training(MapperSettings(), seed=3, sized=True)]
)
def test_samples_can_be_sent_to_spawned_workers(scenes, make):
    samples = Samples(scenes, make)
    sent = pickle.loads(pickle.dumps(samples))
    assert torch.equal(sent((5, 2)).image, samples((5, 2)).image)
    assert sent((5, 2)).scene == 2


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


def test_a_process_that_fails_with_open_batches_exits(tmp_path):
    """Workers ignore the SIGTERM that Python sends to children at exit, so it could wait forever."""
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
