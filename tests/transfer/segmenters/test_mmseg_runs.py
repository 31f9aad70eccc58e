"""Whole runs: both engines compute the same, and MMSegmentation's runner trains from the written config."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.msbreg.data.segmentation.map_trees import folders_tree
from tests.transfer.segmentation_runs import tiny
from tests.transfer.segmenters.mmseg_twin import needs_mmseg
from transfer.segmentation import run
from transfer.segmenters.mmseg_config import FILE

pytestmark = needs_mmseg
ROOT = Path(__file__).resolve().parents[3]
TRAIN = """
import sys
from mmengine.config import Config
from mmengine.runner import Runner

settings = Config.fromfile(sys.argv[1])
settings.work_dir = sys.argv[2]
Runner.from_cfg(settings).train()
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> dict[str, Path]:
    """The folders of the same run with both engines."""
    folder = tmp_path_factory.mktemp("runs")
    data = folders_tree(folder / "data")
    for engine in ("torchvision", "mmseg"):
        run(tiny(data, folder / engine, engine=engine))
    return {engine: folder / engine for engine in ("torchvision", "mmseg")}


def test_both_engines_end_in_the_same_weights_and_scores(outputs):
    one, other = (
        torch.load(folder / "checkpoint.pth", weights_only=False)["model"]
        for folder in outputs.values()
    )
    assert set(one) == set(other)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    scores = [(folder / "per_class.json").read_text() for folder in outputs.values()]
    assert scores[0] == scores[1]


def test_only_its_own_engine_writes_a_config(outputs):
    assert [(folder / FILE).exists() for folder in outputs.values()] == [False, True]


def test_its_runner_trains_and_validates_from_the_written_config(outputs, tmp_path):
    config = outputs["mmseg"] / FILE
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRAIN, str(config), str(tmp_path / "work")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "work" / "iter_6.pth").exists()
    assert "mIoU: " in done.stdout
