"""The keypoints of the data are checked against the yaml before the training."""

import pytest

from msbreg.run.errors import UserError
from tests.transfer.keypoints_data import keypoint_card, make_keypoints
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.splits import data_of


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_keypoints(tmp_path_factory.mktemp("data"))


def data(root, folder, *overrides):
    return data_of(read_config(keypoint_card(folder), overrides), root, train=True)


def test_sigmas_are_those_of_the_yaml(root, tmp_path):
    found = data(root, tmp_path)
    for scenes in (found.train, found.test):
        assert scenes.keypoints is not None
        assert scenes.keypoints.sigmas == (0.1,) * 5


def test_images_with_few_keypoints_are_dropped_from_training_only(root, tmp_path):
    every = data(root, tmp_path)
    key = "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE"
    few = data(root, tmp_path, key, "5")
    assert 0 < len(few.train.scenes) < len(every.train.scenes)
    assert all(len(scene.instances) > 1 for scene in few.train.scenes)
    assert few.test == every.test


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "17"], "Give: .*NUM_KEYPOINTS 5"),
        (["TEST.KEYPOINT_OKS_SIGMAS", "[]"], "has 0 numbers; expected 5"),
        (["TEST.KEYPOINT_OKS_SIGMAS", "[0.1]"], "has 1 numbers; expected 5"),
        (["DATASETS.TEST", "('lvis_v1_val',)", "MODEL.ROI_HEADS.NUM_CLASSES", "3"], "no keypoints"),
    ],
)
def test_settings_that_contradict_the_data_are_named(root, tmp_path, overrides, message):
    with pytest.raises(UserError, match=message):
        data(root, tmp_path, *overrides)
