import json
import shutil

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from msbreg.run.errors import UserError, exit_codes
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.msbreg.data.classification.fine_grained_trees import FINE_GRAINED_TREES
from tests.transfer import test_protocols
from tests.transfer.boxes_data import CARDS
from tests.transfer.test_protocols import common
from tests.transfer.verdicts.recorded import check_outcomes
from transfer import logistic
from transfer.scoring.scores import score_from_dict

checkpoint, data, voc = (
    test_protocols.checkpoint,
    test_protocols.data,
    test_protocols.voc,
)  # fixtures


def by_scikit_learn(arrays, splits, regularization):
    """Top-1 in percent of a classifier fitted on these splits."""
    x = np.concatenate([arrays[f"{split}_features"] for split in splits]).astype(np.float64)
    labels = np.concatenate([arrays[f"{split}_labels"] for split in splits])
    model = LogisticRegression(C=1 / regularization, tol=1e-8, max_iter=100_000).fit(x, labels)
    return 100 * model.score(arrays["val_features"].astype(np.float64), arrays["val_labels"])


def test_the_regularization_is_chosen_on_held_out_images_and_fitted_on_all(
    tmp_path, data, checkpoint
):
    settings = common(tmp_path, data, checkpoint) | {"features_out": tmp_path / "features.npz"}
    results = logistic.run(logistic.Config(**settings, regularizations=(1.0, 0.1, 0.01)))
    record = read_record(tmp_path / "run")
    assert record["selection"] == (
        "regularization on 20% of the training images, held out; "
        "then fitted on all 30 images but the test split"
    )
    arrays = np.load(tmp_path / "features.npz")
    expected = by_scikit_learn(arrays, ["train"], results["regularization"])
    assert results["top1"] == pytest.approx(expected)
    assert results["mean_per_class"] == pytest.approx(expected)  # equally many images per class
    assert results["unconverged_fits"] == 0
    assert results["gradient"] <= 1e-6
    rows = json.loads((tmp_path / "run" / "path.json").read_text())
    assert [row["regularization"] for row in rows] == [1.0, 0.1, 0.01]
    names = [score_from_dict(score).name for score in record["scores"]]
    assert names == ["logistic top-1", "logistic mean per class"]
    check_outcomes(tmp_path / "run")


def test_a_single_regularization_needs_no_selection(tmp_path, make_folder, checkpoint):
    root = make_folder(classes=3, train=1, val=6)  # too few images to hold out one
    config = logistic.Config(**common(tmp_path, root, checkpoint), regularizations=(0.1,))
    results = logistic.run(config)
    record = read_record(tmp_path / "run")
    assert record["selection"] == "nothing is selected: one regularization was given"
    assert results["selection_value"] is None


def test_a_selection_split_is_fitted_with_the_training_images(tmp_path, make_folder, checkpoint):
    root = make_folder(classes=3, train=8, dev=4, val=6)
    settings = common(tmp_path, root, checkpoint) | {"features_out": tmp_path / "features.npz"}
    config = logistic.Config(**settings, selection_split="dev", regularizations=(0.1, 0.01))
    results = logistic.run(config)
    record = read_record(tmp_path / "run")
    assert record["selection"].startswith("regularization on dev; then fitted on all 36 images")
    assert set(record["data"]) == {"train", "dev", "val"}
    arrays = np.load(tmp_path / "features.npz")
    expected = by_scikit_learn(arrays, ["train", "dev"], results["regularization"])
    assert results["top1"] == pytest.approx(expected)


def test_an_image_of_the_selection_split_in_the_test_split_is_rejected(
    tmp_path, make_folder, checkpoint
):
    root = make_folder(classes=3, train=8, dev=4, val=6)
    for label in range(3):
        shutil.copy(root / f"dev/class{label}/000.png", root / f"val/class{label}/100.png")
    config = logistic.Config(**common(tmp_path, root, checkpoint), selection_split="dev")
    with pytest.raises(UserError, match="a test image must not be trained on"):
        logistic.run(config)


def test_several_labels_per_image_are_scored_by_the_eleven_point_map(tmp_path, voc, checkpoint):
    settings = common(tmp_path, f"voc:{voc}", checkpoint)
    config = logistic.Config(
        **settings, train_split="trainval", val_split="test", regularizations=(1.0, 0.01)
    )
    results = logistic.run(config)
    (score,) = map(score_from_dict, read_record(tmp_path / "run")["scores"])
    assert score.rules.startswith("VOC 11-point, images with difficult objects only are negatives")
    assert score.value == results["map"] == pytest.approx(np.mean(list(score.per_class.values())))
    assert results["map"] > 70  # colors; chance is about 50
    check_outcomes(tmp_path / "run")


def test_few_images_per_class_have_a_mean_with_an_interval(tmp_path, data, checkpoint):
    config = logistic.Config(
        **common(tmp_path, data, checkpoint), few_shot=(1, 5), draws=4, regularizations=(0.01,)
    )
    results = logistic.run(config)
    record = read_record(tmp_path / "run")
    assert record["selection"] == "nothing is selected: one regularization was given"
    draws = json.loads((tmp_path / "run" / "few_shot.json").read_text())
    for shots in (1, 5):
        values = [draw["top1"] for draw in draws[str(shots)]]
        assert len(values) == 4
        assert results[f"{shots}_shot"]["top1"] == pytest.approx(np.mean(values))
        half = 3.182 * np.std(values, ddof=1) / 2  # Student's t with 3 degrees of freedom
        assert results[f"{shots}_shot"]["interval"] == pytest.approx(half, rel=1e-3)
    again = logistic.run(logistic.Config(**vars(config) | {"output": tmp_path / "b", "draws": 5}))
    more = json.loads((tmp_path / "b" / "few_shot.json").read_text())
    assert {k: v[:4] for k, v in more.items()} == draws  # more draws keep the first ones
    assert set(again) == {"1_shot", "5_shot"}
    check_outcomes(tmp_path / "b")


def test_few_shot_chooses_each_draws_regularization_on_the_selection_split(
    tmp_path, make_folder, checkpoint
):
    root = make_folder(classes=3, train=8, dev=4, val=6)
    config = logistic.Config(
        **common(tmp_path, root, checkpoint),
        selection_split="dev",
        few_shot=(2,),
        draws=2,
        regularizations=(1e5, 0.01),
    )
    logistic.run(config)
    assert read_record(tmp_path / "run")["selection"] == (
        "regularization of each draw on dev; not fitted on that split"
    )


def test_a_draw_has_equally_many_images_of_each_class():
    labels = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    drawn = logistic.draw_images(labels, 2, np.random.default_rng(0), ("a", "b", "c"))
    assert np.bincount(labels[drawn]).tolist() == [2, 2, 2]
    assert len(set(drawn.tolist())) == 6
    with pytest.raises(UserError, match="class b has 2 training images; expected at least 3"):
        logistic.draw_images(labels, 3, np.random.default_rng(0), ("a", "b", "c"))


@pytest.mark.parametrize(
    ("card", "layout", "flags", "wanted"),
    [
        ("fine_grained_logistic", "dtd", "--selection_split=val", "top1"),
        (
            "fine_grained_logistic",
            "pets",
            "--train_split=trainval --metric=mean_per_class --held_out=0.5",
            "top1",
        ),
        ("few_shot_logistic", "flowers102", "--val_split=test --few_shot=[1,2]", "2_shot"),
    ],
)
def test_the_cards_run_on_trees_of_the_published_layouts(tmp_path, card, layout, flags, wanted):
    FINE_GRAINED_TREES[layout][0](tmp_path / "data")
    options = f"--config={CARDS / card}.yaml --data={layout}:{tmp_path / 'data'} {flags}"
    options += " --checkpoint=random --arch=resnet18-tiny --image_size=16 --device=cpu --workers=1"
    options += f" --output={tmp_path / 'run'} --cache={tmp_path / 'cache'}"
    results = logistic.run(*parse(logistic.Config, options.split()))
    record = read_record(tmp_path / "run")
    assert record["status"] == "done"
    assert record["transform"]["interpolation"] == "bicubic"
    assert wanted in results


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--regularizations [0]", "expected one or more numbers above 0"),
        ("--held_out 1", "held_out is 1.0; expected a fraction"),
        ("--selection_split val", "which is also used to fit or to score"),
        ("--few_shot [1] --draws 1", "at least 2 draws for an interval"),
        ("--few_shot [1]", "several regularizations but nothing to choose one on"),
        ("--selection_split dev", "has no folder 'dev'"),
    ],
)
def test_user_errors_give_one_message(tmp_path, data, checkpoint, capsys, flags, words):
    options = ["--checkpoint", str(checkpoint), "--data", str(data), "--device", "cpu"]
    options += ["--output", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    with pytest.raises(SystemExit) as end, exit_codes():
        logistic.run(*parse(logistic.Config, options + flags.split()))
    assert end.value.code == 2
    output = capsys.readouterr().err
    assert words in output
    assert "Traceback" not in output


def test_few_shot_of_several_labels_per_image_is_rejected(tmp_path, voc, checkpoint):
    config = logistic.Config(
        **common(tmp_path, f"voc:{voc}", checkpoint),
        train_split="trainval",
        val_split="test",
        few_shot=(1,),
        regularizations=(1.0,),
    )
    with pytest.raises(UserError, match="has several labels per image"):
        logistic.run(config)
