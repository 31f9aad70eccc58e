"""Whole runs of the script on keypoints and on LVIS's layout."""

import json

import pytest

from msbreg.run.record import read_record
from tests.transfer.keypoints_data import keypoint_card, lvis_card, make_keypoints
from tests.transfer.test_detection import curve, differing, needs_detectron2, new_config
from tests.transfer.verdicts.recorded import check_outcomes
from tools import score as scoring
from transfer.detection import run
from transfer.scoring.predictions import load_predictions

CARDS = {"keypoints": keypoint_card, "lvis": lvis_card}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_keypoints(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def done(root, tmp_path_factory):
    """Makes, once for each card, the folder of a finished run of the torchvision engine."""
    finished = {}

    def folder(name):
        if name not in finished:
            made = tmp_path_factory.mktemp(name)
            run(new_config(CARDS[name](made), made / "run", data=root))
            finished[name] = made / "run"
        return finished[name]

    return folder


def test_a_keypoint_detector_is_trained_scored_and_drawn(done):
    record = read_record(done("keypoints"))
    assert record is not None
    assert {"box_AP", "keypoint_AP", "keypoint_AP50", "keypoint_APm"} <= record["results"].keys()
    assert [s["name"] for s in record["scores"]][3:] == [
        *("keypoint AP", "keypoint AP50", "keypoint AP75")
    ]
    check_outcomes(done("keypoints"))
    assert "curves_keypoint.svg" in record["drawings"]
    assert all(row["loss_keypoint"] > 0 for row in curve(done("keypoints")) if "total_loss" in row)
    saved = load_predictions(done("keypoints") / "predictions.npz")
    assert all(p.keypoints is not None for p in saved.predictions)
    assert all(p.keypoints.shape == (len(p.scores), 5, 3) for p in saved.predictions)


def test_saved_keypoints_are_scored_again_with_the_sigmas_of_the_run(done, root, capsys):
    assert scoring.main([str(done("keypoints")), "--data", str(root), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["numbers"]
    record = read_record(done("keypoints"))
    assert record is not None
    assert found == {name: record["results"][name] for name in found}
    assert "keypoint_AP" in found


def test_lvis_is_scored_by_its_own_rules_with_ap_by_frequency(done):
    record = read_record(done("lvis"))
    assert record is not None
    assert record["metric"] == "LVIS bbox AP, LVIS segm AP"
    check_outcomes(done("lvis"))
    assert {"box_APr", "box_APc", "box_APf", "mask_APr"} <= record["results"].keys()
    assert record["config"]["yaml"]["DATALOADER.SAMPLER_TRAIN"] == "RepeatFactorTrainingSampler"


def test_repeated_images_change_the_weights(done, root, tmp_path):
    sampler = ("DATALOADER.SAMPLER_TRAIN", "TrainingSampler")
    run(new_config(lvis_card(tmp_path), tmp_path / "run", *sampler, data=root))
    assert differing(done("lvis"), tmp_path / "run")


# pycocotools 2.0 does not support NumPy 2's __array__(copy=), which Detectron2's polygons call.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@needs_detectron2
@pytest.mark.parametrize("name", CARDS)
def test_both_engines_train_bit_for_bit_equal_weights_and_predict_the_same(
    name, done, root, tmp_path
):
    theirs = run(
        new_config(CARDS[name](tmp_path), tmp_path / "run", data=root, engine="detectron2")
    )
    assert not differing(done(name), tmp_path / "run")
    record = read_record(done(name))
    assert record is not None
    assert theirs == record["results"]
