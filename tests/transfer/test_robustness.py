import dataclasses
import shutil

import numpy as np
import pytest

from msbreg.data.classification.corrupted import CORRUPT
from msbreg.run.errors import UserError, exit_codes
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.msbreg.data.classification.published_trees import WNIDS, imagenet_tree
from tests.msbreg.data.classification.variant_trees import (
    imagenet_c_tree,
    imagenet_r_tree,
    imagenet_v2_tree,
    objectnet_tree,
    wnid_tree,
)
from tests.transfer.verdicts.recorded import check_outcomes
from transfer import linear, robustness
from transfer.frozen.linear_probe import load_probe, save_probe
from transfer.scoring.scores import score_from_dict
from transfer.verdicts.outcomes import load_outcomes


def common(tmp_path, data, output):
    return {
        "checkpoint": "random",
        "arch": "resnet18-tiny",
        "image_size": 16,
        "data": str(data),
        "output": tmp_path / output,
        "cache": tmp_path / "cache",
        "device": "cpu",
        "workers": 1,
    }


@pytest.fixture
def probe(tmp_path):
    """A probe of three classes of ImageNet: the output folder of transfer/linear.py."""
    imagenet_tree(tmp_path / "imagenet")
    settings = common(tmp_path, f"imagenet:{tmp_path / 'imagenet'}", "linear")
    linear.run(linear.Config(**settings, epochs=3, learning_rates=(0.1,), norms=("affine",)))
    return tmp_path / "linear"


@pytest.fixture
def wide(probe):
    """The same network with a probe of 1,000 sorted wnids and random weights."""
    small, _ = load_probe(probe)
    rng = np.random.default_rng(0)
    large = dataclasses.replace(
        small,
        weight=rng.normal(size=(len(small.weight), 1000)).astype(np.float32),
        bias=np.zeros(1000, np.float32),
        classes=tuple(f"n{i:08d}" for i in range(1000)),
    )
    save_probe(probe / "wide.pth", large)
    return probe / "wide.pth"


def robust(tmp_path, data, probe, **changes):
    return robustness.Config(**common(tmp_path, data, "run"), probe=probe, **changes)


@pytest.mark.parametrize("route", ["cached", "streamed"])
def test_the_probe_has_the_score_of_the_head_it_was_saved_from(tmp_path, probe, route):
    settings = common(tmp_path, f"imagenet:{tmp_path / 'imagenet'}", route)
    more = {"loading": 0} if route == "streamed" else {"standardize": True}
    results = linear.run(
        linear.Config(**settings, route=route, epochs=3, learning_rates=(0.1, 1.0), held_out=0.3)
        if route == "streamed"
        else linear.Config(**settings, epochs=3, held_out=0.3, **more)
    )
    # The validation images themselves, as a test set with another name.
    shutil.copytree(tmp_path / "imagenet" / "val", tmp_path / "copy" / "imagenet-r")
    found = robustness.run(robust(tmp_path, f"imagenet-r:{tmp_path / 'copy'}", tmp_path / route))
    assert found["top1"] == results["top1"]


def test_the_logits_are_restricted_to_the_classes_of_the_data_before_the_argmax(tmp_path, probe):
    wnid_tree(tmp_path / "data", "imagenet-a", wnids=WNIDS[:2])
    loaded, _ = load_probe(probe)
    # The third class is the most likely one of the probe, but not a class of the data.
    bias = np.array([0, 1, 1e6], np.float32)
    constant = dataclasses.replace(loaded, weight=0 * loaded.weight, bias=bias)
    save_probe(probe / "probe.pth", constant)
    results = robustness.run(robust(tmp_path, f"imagenet-a:{tmp_path / 'data'}", probe))
    (score,) = map(score_from_dict, read_record(tmp_path / "run")["scores"])
    assert score.per_class == {WNIDS[0]: 0, WNIDS[1]: 100}
    assert score.rules == "logits of the 2 classes of the data only"
    assert results["top1"] == 50
    check_outcomes(tmp_path / "run")


def test_the_default_transform_is_that_of_the_probe(tmp_path, probe):
    imagenet_r_tree(tmp_path / "data")
    robustness.run(robust(tmp_path, tmp_path / "data", probe))
    record = read_record(tmp_path / "run")
    assert record["transform"] == read_record(probe)["transform"]
    assert record["probe"]["sha256"] == load_probe(probe)[1]
    assert record["selection"].startswith("nothing is selected")


def test_corrupted_images_are_averaged_over_corruptions_and_severities(tmp_path, probe):
    imagenet_c_tree(tmp_path / "data", severities=(1, 2))
    config = robust(tmp_path, f"imagenet-c:{tmp_path / 'data'}", probe, severities=(1, 2))
    results = robustness.run(config)
    record = read_record(tmp_path / "run")
    assert len(record["data"]) == 30
    assert len(results["corruptions"]) == 15
    assert results["top1"] == pytest.approx(np.mean(list(results["corruptions"].values())))
    blur = [record["data"][f"glass_blur/{severity}"]["top1"] for severity in (1, 2)]
    assert results["corruptions"]["glass_blur"] == pytest.approx(np.mean(blur))
    # Its images are center crops, which are not resized again.
    assert record["transform"]["resize"] == record["transform"]["crop"] == 16
    (score,) = map(score_from_dict, record["scores"])
    assert score.n == 90
    check_outcomes(tmp_path / "run")
    (outcomes,) = load_outcomes(tmp_path / "run")
    assert outcomes.count == 3  # photographs: their 30 corruptions are not independent


def test_any_folder_can_be_corrupted_while_it_is_read(tmp_path, make_folder):
    data = make_folder()
    settings = common(tmp_path, data, "linear")
    linear.run(linear.Config(**settings, epochs=3, learning_rates=(0.1,), norms=("affine",)))
    config = robust(tmp_path, f"corrupted:{data}", tmp_path / "linear", severities=(5,))
    results = robustness.run(config)
    assert set(results["corruptions"]) == set(CORRUPT)
    record = read_record(tmp_path / "run")
    (score,) = map(score_from_dict, record["scores"])
    assert (score.name, score.data.split) == ("linear probe top-1", "corrupted")
    # A single corruption has the score that is part of the mean.
    one = dataclasses.replace(config, split="contrast/5", output=tmp_path / "one")
    assert robustness.run(one)["top1"] == results["corruptions"]["contrast"]


def test_a_missing_severity_is_an_error(tmp_path, probe):
    imagenet_c_tree(tmp_path / "data")
    with pytest.raises(UserError, match="contains no folder of imagenet-c, such as .*noise/2"):
        robustness.run(robust(tmp_path, f"imagenet-c:{tmp_path / 'data'}", probe))


def test_folders_of_v2_are_indices_of_the_sorted_wnids(tmp_path, wide):
    imagenet_v2_tree(tmp_path / "data")
    robustness.run(robust(tmp_path, f"imagenet-v2:{tmp_path / 'data'}", wide))
    columns = robustness.columns_of_classes(
        robustness.open_source(f"imagenet-v2:{tmp_path / 'data'}", "matched-frequency"),
        "imagenet-v2",
        tmp_path / "data",
        load_probe(wide)[0].classes,
    )
    assert columns == [(0,), (2,), (10,)]


def test_an_object_counts_as_any_of_its_classes(tmp_path, wide):
    objectnet_tree(tmp_path / "data")
    results = robustness.run(robust(tmp_path, f"objectnet:{tmp_path / 'data'}", wide))
    (score,) = map(score_from_dict, read_record(tmp_path / "run")["scores"])
    assert score.rules.endswith("an object has the largest logit of its classes in ImageNet")
    assert results["top1"] in (0, 25, 50, 75, 100)
    assert set(score.per_class) == {"alarm_clock", "chair"}


def test_a_probe_of_other_weights_is_refused(tmp_path, probe):
    imagenet_r_tree(tmp_path / "data")
    config = robust(tmp_path, f"imagenet-r:{tmp_path / 'data'}", probe, seed=1)
    with pytest.raises(UserError, match="was trained on another network"):
        robustness.run(config)


def test_a_probe_of_other_classes_is_refused(tmp_path, probe):
    wnid_tree(tmp_path / "data", "imagenet-r", wnids=(*WNIDS[:2], "n09999999"))
    with pytest.raises(UserError, match="1 of the 3 classes .* such as n09999999"):
        robustness.run(robust(tmp_path, f"imagenet-r:{tmp_path / 'data'}", probe))
    for write, layout in ((imagenet_v2_tree, "imagenet-v2"), (objectnet_tree, "objectnet")):
        write(tmp_path / layout)
        config = robust(tmp_path, f"{layout}:{tmp_path / layout}", probe)
        with pytest.raises(
            UserError, match="has 3 classes, but .* expected a probe of ImageNet-1k"
        ):
            robustness.run(config)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data nowhere", "data 'nowhere' is neither a folder nor a known name"),
        ("--data DATA --probe /no/such", "probe /no/such does not exist"),
        ("--data DATA --severities [6]", "expected some of 1, 2, 3, 4, 5"),
        ("--data DATA", "has the layout folder; this script reads only"),
        ("--data imagenet-r:R --representation cls", "the probe was trained on 'gap'"),
    ],
)
def test_user_errors_give_one_message(tmp_path, probe, make_folder, capsys, flags, words):
    imagenet_r_tree(tmp_path / "r")
    flags = flags.replace("DATA", str(make_folder())).replace(":R", f":{tmp_path / 'r'}")
    options = ["--checkpoint=random", "--arch=resnet18-tiny", "--image_size=16", "--device=cpu"]
    options += [f"--output={tmp_path / 'run'}", f"--probe={probe}"]
    with pytest.raises(SystemExit) as end, exit_codes():
        robustness.run(*parse(robustness.Config, options + flags.split()))
    assert end.value.code == 2
    output = capsys.readouterr().err
    assert words in output
    assert "Traceback" not in output
