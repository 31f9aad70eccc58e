"""The protocol scripts, from a checkpoint on disk to a record."""

import dataclasses
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from msbreg.backbones.resnet import build_backbone
from msbreg.backbones.spec import BackboneSpec, Normalization
from msbreg.checkpoints.load import save_checkpoint
from msbreg.data import sources
from msbreg.data.digits.generate import prepare_digits
from msbreg.data.transforms import EvaluationTransform, TransformOptions
from msbreg.run.errors import RunFailed, UserError, exit_codes
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.transfer.labeled_voc import write_labeled_voc
from tests.transfer.verdicts.recorded import check_outcomes
from transfer import knn, linear, svm
from transfer.frozen import evaluation, frozen_network
from transfer.scoring.scores import score_from_dict


@pytest.fixture
def data(make_folder) -> Path:
    return make_folder(classes=3, train=10, val=6)


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    backbone = build_backbone("resnet18-tiny", seed=7)
    path = tmp_path / "checkpoint.pth"
    save_checkpoint(
        path,
        {
            "arch": "resnet18-tiny",
            "image_size": 16,
            "step": 3,
            "steps": 9,
            "config": {"method": "msbreg", "views": 2, "epochs": 1, "batch_size": 4, "seed": 7},
            "online": {f"backbone.{k}": v for k, v in backbone.state_dict().items()},
        },
    )
    return path


@pytest.fixture
def voc(tmp_path) -> Path:
    return write_labeled_voc(tmp_path / "voc")


def common(tmp_path: Path, data: Path, checkpoint: Path | str, output: str = "run") -> dict:
    return {
        "checkpoint": str(checkpoint),
        "data": str(data),
        "output": tmp_path / output,
        "cache": tmp_path / "cache",
        "device": "cpu",
        "workers": 1,
    }


def test_knn_scores_and_writes_a_record(tmp_path, data, checkpoint):
    results = knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3, 200)))
    record = read_record(tmp_path / "run")
    assert record["status"] == "done"
    assert record["results"] == results
    check_outcomes(tmp_path / "run")
    assert 0 <= results["top1_3nn"] <= 100
    assert "top1_200nn" not in results
    assert record["warnings"] == ["k = 200 is skipped: the bank has only 30 images"]
    assert record["selection"] == "nothing is selected"
    assert record["network"]["name"] == "msbreg resnet18-tiny"
    assert record["network"]["sha256"]
    assert record["transform"] == {
        "resize": 16,
        "crop": 16,
        "interpolation": "bilinear",
        "squash": False,
    }
    shown = json.loads((tmp_path / "run" / "neighbors.json").read_text())
    assert [query["class"] for query in shown] == ["class0", "class1", "class2"]
    assert all(Path(near["path"]).is_file() for query in shown for near in query["neighbors"])


def test_knn_equals_a_brute_force_vote(tmp_path, data, checkpoint):
    results = knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(5,)))
    backbone = build_backbone("resnet18-tiny", seed=7).eval()
    from msbreg.backbones.resnet import embed, normalize
    from msbreg.data.sources import open_source

    transform = EvaluationTransform(16, 16)

    def features(split):
        images = open_source(str(data), split)
        pixels = torch.from_numpy(
            np.stack([transform(images.image(i)) for i in range(len(images))])
        )
        with torch.inference_mode():
            x = embed(backbone, normalize(pixels, torch.device("cpu")))
        return torch.nn.functional.normalize(x, dim=1), images.labels

    (bank, bank_labels), (queries, labels) = features("train"), features("val")
    right = 0
    for query, label in zip(queries, labels, strict=True):
        similarity = bank @ query
        votes = np.zeros(3)
        for i in similarity.topk(5).indices:
            votes[bank_labels[i]] += np.exp(float(similarity[i]) / 0.07)
        right += votes.argmax() == label
    assert results["top1_5nn"] == pytest.approx(100 * right / len(labels))


def test_euclidean_neighbors_vote_as_scikit_learns_classifier_does(tmp_path, data, checkpoint):
    settings = common(tmp_path, data, checkpoint) | {"features_out": tmp_path / "features.npz"}
    results = knn.run(knn.Config(**settings, k=(5,), metric="euclidean", vote="majority"))
    arrays = np.load(tmp_path / "features.npz")
    peer = KNeighborsClassifier(5, algorithm="brute")  # equal counts go to the smallest class
    peer.fit(arrays["train_features"], arrays["train_labels"])
    expected = 100 * peer.score(arrays["val_features"], arrays["val_labels"])
    assert results["top1_5nn"] == pytest.approx(expected)
    (score,) = read_record(tmp_path / "run")["scores"]
    assert score["rules"] == "Euclidean distance, 5 neighbors, weights equal"


def test_weights_for_the_cosine_are_refused_with_the_euclidean_distance():
    with pytest.raises(UserError, match="expected --vote majority"):
        knn.Config(metric="euclidean")


def test_features_are_cached_per_weights(tmp_path, data, checkpoint):
    first = knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))
    stored = set((tmp_path / "cache").iterdir())
    assert len(stored) == 2
    again = knn.run(knn.Config(**common(tmp_path, data, checkpoint, "again"), k=(3,)))
    assert again == first
    assert set((tmp_path / "cache").iterdir()) == stored
    knn.run(knn.Config(**common(tmp_path, data, "random", "random"), k=(3,)))
    assert len(set((tmp_path / "cache").iterdir())) == 4


def test_equal_names_and_sizes_in_two_splits_do_not_share_features(tmp_path, data, checkpoint):
    """Uncompressed images of one size have equal sizes; train and val often have equal names."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in range(3):
            folder = data / split / f"class{label}"
            for file in folder.iterdir():
                file.unlink()
            for index in range(6):
                image = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                cv2.imwrite(str(folder / f"{index}.bmp"), image)
    results = knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(1,)))
    assert results["top1_1nn"] < 90  # noise: each image's nearest neighbor would be itself


def test_svm_learns_the_objects_in_an_image(tmp_path, voc, checkpoint):
    config = svm.Config(**common(tmp_path, voc, checkpoint), costs=(0.1, 1.0, 10.0))
    results = svm.run(config)
    record = read_record(tmp_path / "run")
    assert record["selection"] == "cost of each class by 3-fold cross-validation on trainval"
    assert results["map"] > 70  # colors; chance is about 50
    rows = json.loads((tmp_path / "run" / "per_class.json").read_text())
    assert list(rows) == ["green", "red"]
    assert results["map"] == pytest.approx(np.mean([row["ap"] for row in rows.values()]))
    assert all(row["cost"] in (0.1, 1.0, 10.0) for row in rows.values())


def test_svms_by_newton_have_the_score_of_liblinear_and_report_their_gap(tmp_path, voc, checkpoint):
    settings = common(tmp_path, voc, checkpoint) | {"costs": (0.1, 1.0)}
    reference = svm.run(svm.Config(**settings))
    settings |= {"output": tmp_path / "newton"}
    results = svm.run(svm.Config(**settings, solver="newton"))
    assert results["map"] == pytest.approx(reference["map"], abs=0.01)
    assert results["unconverged_fits"] == 0
    assert 0 <= results["largest_gap"] <= 1e-8
    assert read_record(tmp_path / "newton")["config"]["solver"] == "newton"


@pytest.mark.parametrize("solver", ["liblinear", "newton"])
def test_low_shot_svms_report_mean_and_spread_over_draws(tmp_path, voc, checkpoint, solver):
    settings = common(tmp_path, voc, checkpoint) | {"costs": (0.5,), "solver": solver}
    results = svm.run(svm.Config(**settings, low_shot=(1, 4), draws=3))
    assert results.keys() == {"1_shot", "4_shot"}
    draws = json.loads((tmp_path / "run" / "low_shot.json").read_text())["4"]
    means = [np.mean(list(draw.values())) for draw in draws]
    assert len(means) == 3
    assert results["4_shot"]["map"] == pytest.approx(np.mean(means))
    assert results["4_shot"]["std"] == pytest.approx(np.std(means, ddof=1))
    record = read_record(tmp_path / "run")
    assert record["selection"] == "nothing is selected"
    scores = [score_from_dict(fields) for fields in record["scores"]]
    assert [score.name for score in scores] == ["1-shot SVM mAP", "4-shot SVM mAP"]
    check_outcomes(tmp_path / "run")
    assert scores[0].rules.startswith("mean over 3 draws; mean over classes")


@pytest.mark.parametrize("protocol", [knn, linear])
def test_classes_that_differ_between_splits_are_rejected(tmp_path, data, checkpoint, protocol):
    (data / "val" / "class2").rename(data / "val" / "other")
    with pytest.raises(
        UserError,
        match="train and val have different classes: val has no class2; train has no other",
    ):
        protocol.run(protocol.Config(**common(tmp_path, data, checkpoint)))


def test_an_unreadable_image_stops_an_evaluation(tmp_path, data, checkpoint):
    (data / "val" / "class1" / "003.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"class1/003\.png is not an image(.|\n)*not comparable"):
        knn.run(knn.Config(**common(tmp_path, data, checkpoint)))
    assert not (tmp_path / "run").exists()


def test_an_image_in_both_splits_is_rejected(tmp_path, voc, checkpoint):
    main = voc / "VOC2007" / "ImageSets" / "Main"
    for label in ("red", "green"):
        test = main / f"{label}_test.txt"
        test.write_text(test.read_text() + "trainval000 1\n")
    with pytest.raises(
        UserError, match=r"1 of the 17 images of test are also in trainval.*trainval000\.jpg"
    ):
        svm.run(svm.Config(**common(tmp_path, voc, checkpoint)))


def test_the_random_twin_needs_no_file_and_follows_the_seed(tmp_path, data):
    for seed in (0, 1):
        settings = common(tmp_path, data, "random", f"r{seed}")
        knn.run(knn.Config(**settings, k=(3,), seed=seed, image_size=16))
    networks = [read_record(tmp_path / f"r{seed}")["network"] for seed in (0, 1)]
    assert networks[0]["sha256"] != networks[1]["sha256"]
    assert networks[0]["name"] == networks[1]["name"] == "random resnet18-narrow"
    assert networks[0]["image_size"] == 16


def test_a_damaged_feature_cache_is_extracted_again(tmp_path, data, checkpoint):
    first = knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))
    stored = sorted((tmp_path / "cache").glob("*/*.features.npy"))
    assert len(stored) == 2
    before = [path.read_bytes() for path in stored]
    for path in stored:
        path.write_bytes(bytes(path.stat().st_size))
    assert knn.run(knn.Config(**common(tmp_path, data, checkpoint, "again"), k=(3,))) == first
    warnings = read_record(tmp_path / "again")["warnings"]
    assert len(warnings) == 2
    assert all("is damaged (the checksums differ)" in warning for warning in warnings)
    assert [path.read_bytes() for path in stored] == before


def test_features_that_are_not_finite_are_an_error_and_not_cached(tmp_path, data, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["online"]["backbone.layer4.1.conv2.weight"] *= 1e30
    content["online"]["backbone.layer4.1.bn2.weight"] *= 1e30
    torch.save(content, checkpoint)
    with pytest.raises(RunFailed, match="30 of 30 features of train are not finite"):
        knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))
    assert not list((tmp_path / "cache").rglob("*.npy"))


def test_a_cache_that_cannot_be_written_is_not_needed(tmp_path, data, checkpoint):
    wanted = knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))
    (tmp_path / "file").touch()
    settings = common(tmp_path, data, checkpoint, "again") | {"cache": tmp_path / "file" / "cache"}
    assert knn.run(knn.Config(**settings, k=(3,))) == wanted


def test_scores_state_their_name_data_and_rules(tmp_path, data, voc, checkpoint):
    knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))
    linear.run(linear.Config(**common(tmp_path, data, checkpoint, "b"), epochs=2))
    svm.run(svm.Config(**common(tmp_path, voc, checkpoint, "c"), costs=(0.1, 1.0)))
    found = []
    for folder, result in (("run", "top1_3nn"), ("b", "top1"), ("c", "map")):
        record = read_record(tmp_path / folder)
        check_outcomes(tmp_path / folder)
        score = score_from_dict(record["scores"][0])
        assert score.value == record["results"][result]
        split = {"val": "val"}.get(score.data.split, "test")
        assert score.data.fingerprint == record["data"][split]["fingerprint"]
        assert score.n == record["data"][split]["images"]
        assert 0 <= score.stderr < 20
        assert np.mean(list(score.per_class.values())) == pytest.approx(
            score.value
        )  # equal classes
        found.append((score.name, score.data.name, score.unit))
    assert found == [
        ("3-NN top-1", "data", "%"),
        ("linear top-1", "data", "%"),
        ("SVM mAP", "voc", "%"),
    ]


def test_split_names_are_options_and_a_missing_split_gets_a_suggestion(tmp_path, data, checkpoint):
    (data / "val").rename(data / "test")
    settings = common(tmp_path, data, checkpoint)
    with pytest.raises(UserError, match=r"no folder 'val'(.|\n)*--val-split test"):
        knn.run(knn.Config(**settings, k=(3,)))
    assert knn.run(knn.Config(**settings, k=(3,), val_split="test"))


def test_a_class_missing_in_val_gives_a_hint_to_the_test_folder(tmp_path, data, checkpoint):
    shutil.copytree(data / "val", data / "test")
    shutil.rmtree(data / "val" / "class2")
    with pytest.raises(UserError, match=r"val has no class2(.|\n)*--val-split test"):
        linear.run(linear.Config(**common(tmp_path, data, checkpoint)))


@pytest.mark.parametrize("protocol", [knn, linear])
def test_a_single_class_is_rejected(tmp_path, make_folder, checkpoint, protocol):
    data = make_folder("one", classes=1)
    with pytest.raises(UserError, match="single class 'class0'; classification needs at least two"):
        protocol.run(protocol.Config(**common(tmp_path, data, checkpoint)))


@pytest.mark.parametrize("how", ["link of a split", "link of a file", "copy"])
def test_copies_in_both_splits_are_rejected(tmp_path, data, checkpoint, how):
    val, train = data / "val", data / "train"
    if how == "link of a split":
        shutil.rmtree(val)
        val.symlink_to(train)
    elif how == "link of a file":
        (val / "class0" / "new.png").symlink_to(train / "class0" / "000.png")
    else:
        shutil.copy(train / "class0" / "000.png", val / "class0" / "new.png")
    with pytest.raises(UserError, match="a test image must not be trained on"):
        knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))


def test_a_few_copies_among_many_images_give_a_warning(tmp_path, make_folder, checkpoint):
    data = make_folder("many", classes=2, side=8, train=3, val=60)
    shutil.copy(data / "train" / "class0" / "000.png", data / "val" / "class0" / "new.png")
    knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))
    (warning,) = read_record(tmp_path / "run")["warnings"]
    assert warning.startswith("copies of training images among the 121 test images: 1")


@pytest.mark.parametrize("protocol", [knn, linear])
def test_a_voc_folder_gives_a_hint_to_its_protocols(tmp_path, voc, checkpoint, protocol):
    with pytest.raises(UserError, match=r"transfer/svm\.py --data(.|\n)*voc:.*:SPLIT"):
        protocol.run(protocol.Config(**common(tmp_path, voc, checkpoint)))


def relabel(voc: Path, label: str, split: str, value: int) -> None:
    """A class file in which every image has the value."""
    main = voc / "VOC2007" / "ImageSets" / "Main"
    rows = (main / f"red_{split}.txt").read_text().splitlines()
    text = "".join(f"{row.split()[0]} {value}\n" for row in rows)
    (main / f"{label}_{split}.txt").write_text(text)


def test_all_unusable_classes_are_listed_and_can_be_skipped(tmp_path, voc, checkpoint):
    for label, value in (("always", 1), ("never", -1)):
        for split in ("trainval", "test"):
            relabel(voc, label, split, value)
    settings = common(tmp_path, voc, checkpoint) | {"costs": (0.1, 1.0)}
    with pytest.raises(UserError) as error:
        svm.run(svm.Config(**settings))
    message = str(error.value)
    assert "2 of 4 classes cannot be evaluated" in message
    assert "always: 0 negative training images, expected at least 3" in message
    assert (
        "never: 0 positive training images, expected at least 3, one for each fold; no" in message
    )
    assert "--classes '[green, red]'" in message
    skipped = svm.run(svm.Config(**settings, unusable_classes="skip"))
    record = read_record(tmp_path / "run")
    assert list(record["skipped_classes"]) == ["always", "never"]
    assert "skipped 2 of 4 classes" in record["warnings"][0]
    settings |= {"output": tmp_path / "chosen"}
    assert svm.run(svm.Config(**settings, classes=("green", "red"))) == skipped
    settings |= {"output": tmp_path / "unknown"}
    with pytest.raises(UserError, match="classes lists blue.*some of: always, green, never, red"):
        svm.run(svm.Config(**settings, classes=("blue", "red")))


def test_features_can_be_exported(tmp_path, data, checkpoint):
    settings = common(tmp_path, data, checkpoint) | {"k": (3,)}
    knn.run(knn.Config(**settings, features_out=tmp_path / "out" / "features.npz"))
    with np.load(tmp_path / "out" / "features.npz") as arrays:
        assert arrays["train_features"].shape == (30, 256)
        assert arrays["val_labels"].tolist() == [0] * 6 + [1] * 6 + [2] * 6
        assert arrays["classes"].tolist() == ["class0", "class1", "class2"]
        assert arrays["val_paths"][0] == str(data / "val" / "class0" / "000.png")
        val = arrays["val_features"]
    settings |= {"output": tmp_path / "b"}
    knn.run(knn.Config(**settings, features_out=tmp_path / "features.npy"))
    assert np.array_equal(np.load(tmp_path / "features-val.npy"), val)
    with pytest.raises(UserError, match=r"expected FILE\.npz or FILE\.npy"):
        knn.Config(**settings, features_out=tmp_path / "features.txt")


def test_without_data_the_embedded_digits_are_announced(tmp_path, checkpoint, monkeypatch):
    root = prepare_digits(tmp_path / "digits", scale=1 / 60)
    monkeypatch.setitem(sources.EMBEDDED, "digits", lambda: root)
    settings = common(tmp_path, "digits", checkpoint) | {"k": (3,)}
    knn.run(knn.Config(**settings | {"data": None}))
    record = read_record(tmp_path / "run")
    assert record["config"]["data"] == "digits"
    assert "EMBEDDED DIGITS" in record["warnings"][0]
    knn.run(knn.Config(**settings | {"output": tmp_path / "explicit"}))
    assert read_record(tmp_path / "explicit")["warnings"] == []


def test_the_first_line_names_checkpoint_and_data(tmp_path, data, checkpoint, capsys):
    knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))
    assert capsys.readouterr().err.startswith(f"knn of {checkpoint} on {data}\n")


def test_a_note_that_both_splits_share_is_printed_once_and_recorded(
    tmp_path, data, checkpoint, capsys
):
    knn.run(knn.Config(**common(tmp_path, f"places205:{data}", checkpoint), k=(3,)))
    assert capsys.readouterr().err.count("those of the published lists may differ") == 1
    warning, counts = read_record(tmp_path / "run")["warnings"]
    assert warning.startswith(f"places205:{data}: the labels of this Places205 mirror")
    assert counts.startswith("NOT THE PUBLISHED DATA SET: train: published count 2,448,873, found")


def test_files_that_are_not_images_are_counted_in_the_record(tmp_path, data, checkpoint):
    (data / "val" / "class0" / "dance.gif").write_bytes(b"GIF89a")
    knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))
    (warning,) = read_record(tmp_path / "run")["warnings"]
    assert "files ignored because of their suffix: 1 (1 x .gif)" in warning


@pytest.mark.parametrize("protocol", [knn, linear, svm])
def test_the_untrained_twin_has_the_input_of_the_checkpoint(
    tmp_path, data, voc, checkpoint, protocol, monkeypatch
):
    spec = BackboneSpec(
        "resnet18-tiny", Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "BGR"), image_size=24
    )
    load = frozen_network.load_backbone

    def load_other(*arguments, **options):
        backbone, provenance = load(*arguments, **options)
        return backbone, dataclasses.replace(provenance, spec=spec)

    monkeypatch.setattr(frozen_network, "load_backbone", load_other)
    settings = common(tmp_path, voc if protocol is svm else data, "random")
    settings |= {"k": (3,)} if protocol is knn else {}
    settings |= {"epochs": 2} if protocol is linear else {}
    settings |= {"costs": (0.1,)} if protocol is svm else {}
    protocol.run(protocol.Config(**settings, twin_of=checkpoint))
    record = read_record(tmp_path / "run")
    assert record["network"]["source"] == "random"
    seen = record["network"]["normalization"]
    assert (seen["mean"], seen["channels"]) == ([0.5, 0.4, 0.3], "BGR")
    assert record["transform"]["crop"] == 24
    with pytest.raises(UserError, match="expected --checkpoint random with --twin-of"):
        protocol.Config(**settings | {"checkpoint": str(checkpoint)}, twin_of=checkpoint)


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("knn", "--checkpoint /no/such.pth", "/no/such.pth does not exist"),
        ("knn", "--data /no/such", "neither a folder nor a known name"),
        ("knn", "--k [0]", "expected integers of 1 or more"),
        ("knn", "--arch resnet50", "contains a resnet18-tiny, but a resnet50"),
        ("knn", "--transform.crop 400", "crop is 400"),
        ("knn", "--kk 3", "kk"),
        ("linear", "--held_out 2", "held_out 2"),
        ("linear", "--learning_rates [-1]", "expected numbers above 0"),
        ("svm", "--folds 1", "folds is 1"),
        ("svm", "--low_shot [4]", "low_shot is [4], but costs is None; expected one cost"),
        ("svm", "--low_shot [0] --costs [1]", "low_shot is [0] and draws 5"),
        ("svm", "--solver adam", "solver"),
        ("svm", "", "does not have VOC's layout"),
    ],
)
def test_user_errors_give_one_message(tmp_path, data, checkpoint, capsys, script, flags, words):
    protocol = {"knn": knn, "linear": linear, "svm": svm}[script]
    options = ["--checkpoint", str(checkpoint), "--data", str(data), "--device", "cpu"]
    options += ["--output", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    with pytest.raises(SystemExit) as end, exit_codes():
        protocol.run(*parse(protocol.Config, options + flags.split()))
    assert end.value.code == 2
    output = capsys.readouterr().err
    assert words in output
    assert "Traceback" not in output


def test_the_digest_covers_the_transform_that_was_used(tmp_path, data):
    def digest(name, **changes):
        settings = common(tmp_path, data, "random", name) | {"k": (3,), **changes}
        knn.run(knn.Config(**settings))
        return read_record(tmp_path / name)["digest"]

    small, large = digest("a", image_size=16), digest("b", image_size=32)
    stated = digest("c", image_size=16, transform=TransformOptions(16, 16, "bilinear", False))
    assert small != large
    assert small == stated


def test_another_name_of_the_training_split_is_suggested_and_accepted(tmp_path, data, checkpoint):
    (data / "train").rename(data / "training")
    settings = common(tmp_path, data, checkpoint) | {"k": (3,)}
    with pytest.raises(UserError, match=r"no folder 'train'(.|\n)*--train-split training"):
        knn.run(knn.Config(**settings))
    assert knn.run(knn.Config(**settings, train_split="training"))


def test_images_without_labels_are_rejected(tmp_path, data, checkpoint):
    settings = common(tmp_path, f"flat:{data}", checkpoint) | {"k": (3,)}
    with pytest.raises(UserError, match="the images of train and val have no labels"):
        knn.run(knn.Config(**settings))


def test_classes_in_another_order_are_named(tmp_path, data, checkpoint, monkeypatch):
    opened = evaluation.open_source

    def swapped(given, split):
        images = opened(given, split)
        first, second, *rest = images.classes
        return (
            dataclasses.replace(images, classes=(second, first, *rest))
            if split == "val"
            else images
        )

    monkeypatch.setattr(evaluation, "open_source", swapped)
    with pytest.raises(UserError, match="label 0 is class0 in train and class1 in val"):
        knn.run(knn.Config(**common(tmp_path, data, checkpoint), k=(3,)))


def test_options_of_the_transform_keep_the_rest_of_the_networks_default(tmp_path, data, checkpoint):
    words = [
        "--checkpoint",
        str(checkpoint),
        "--data",
        str(data),
        "--output",
        str(tmp_path / "run"),
    ]
    words += ["--cache", str(tmp_path / "cache"), "--device", "cpu", "--k", "3"]
    knn.run(*parse(knn.Config, [*words, "--transform.interpolation", "bicubic"]))
    assert read_record(tmp_path / "run")["transform"] == {
        "resize": 16,
        "crop": 16,
        "interpolation": "bicubic",
        "squash": False,
    }


@pytest.mark.parametrize("protocol", [knn, linear])
def test_images_with_several_labels_are_rejected(tmp_path, voc, checkpoint, protocol):
    settings = common(tmp_path, f"voc:{voc}", checkpoint)
    settings |= {"train_split": "trainval", "val_split": "test"}
    with pytest.raises(UserError, match=r"several labels per image(.|\n)*use transfer/svm\.py"):
        protocol.run(protocol.Config(**settings))
