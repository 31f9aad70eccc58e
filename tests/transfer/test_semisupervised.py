"""Complete runs of the script: lists of labels, choices on held-out images, interruptions, errors."""

import shutil

import pytest
import torch

from msbreg.run.errors import RunFailed, UserError
from msbreg.run.record import read_record
from tests.conftest import write_folder
from tests.transfer.finetuning.fine_tuning_processes import settings
from tests.transfer.verdicts.recorded import check_outcomes
from transfer import semisupervised
from transfer.finetuning.classifier_training import candidates_of


@pytest.fixture
def data(make_folder):
    return make_folder(train=10, val=6)


def test_the_classifier_learns_and_its_scores_are_recorded(data, tmp_path):
    changes = {"freeze": "nothing", "epoch_counts": (8,), "learning_rates": (0.5,)}
    results = semisupervised.run(settings(data, tmp_path / "run", encoder_rates=(0.05,), **changes))
    record = read_record(tmp_path / "run")
    assert results["top1"] > 75  # two color casts, chance 50
    check_outcomes(tmp_path / "run")
    assert [score["name"] for score in record["scores"]] == [
        "fine-tuned top-1",
        "fine-tuned mean per class",
    ]
    assert record["scores"][0]["rules"] == "fine-tuned network, trained on train"
    assert record["selection"].startswith("nothing is selected")
    assert record["augmentation"]["crop"] == 16


def test_settings_are_chosen_on_held_out_training_images_and_then_used_on_all(data, tmp_path):
    config = settings(
        data,
        tmp_path / "run",
        learning_rates=(1e-6, 0.1),
        encoder_rates=(1e-6, 0.01),
        epoch_counts=(1, 3),
        held_out=0.3,
    )
    results = semisupervised.run(config)
    assert list(results["held_out"]) == list(candidates_of(config, 14))
    assert results["held_out"][results["chosen"]] == max(results["held_out"].values())
    record = read_record(tmp_path / "run")
    assert record["selection"] == (
        "settings chosen on 6 held-out training images, then trained on all 20"
    )


def test_a_candidate_that_diverges_is_recorded_and_not_chosen(data, tmp_path):
    rates = {"learning_rates": (1e38, 0.1), "encoder_rates": (1e38, 0.01)}
    results = semisupervised.run(settings(data, tmp_path / "run", held_out=0.3, **rates))
    names = list(results["held_out"])
    assert results["held_out"][names[0]] is None
    assert results["chosen"] == names[1]
    assert "diverged and is not chosen" in read_record(tmp_path / "run")["warnings"][0]


def test_a_run_whose_candidates_all_diverge_fails(data, tmp_path):
    rates = {"learning_rates": (1e37, 1e38), "encoder_rates": (1e37, 1e38)}
    with pytest.raises(RunFailed, match="all diverged: learning rate 1e"):
        semisupervised.run(settings(data, tmp_path / "run", held_out=0.3, **rates))


def test_a_fraction_of_the_labels_is_balanced_and_recorded(data, tmp_path):
    semisupervised.run(settings(data, tmp_path / "run", labels=0.3, batch_size=4))
    record = read_record(tmp_path / "run")
    assert record["data"]["train"]["images"] == 20
    assert record["data"]["train"]["used"] == 6
    assert "30 % of the labels" in record["scores"][0]["rules"]


def test_fewer_labels_than_classes_are_an_error(data, tmp_path):
    with pytest.raises(
        UserError, match=r"which is 1 of the \d+ training .* of the 2 classes: --labels"
    ):
        semisupervised.run(settings(data, tmp_path / "run", labels=0.05))


def test_a_list_of_imagenet_names_the_labeled_images(tmp_path):
    root = write_folder(tmp_path / "plain", train=6, val=3)
    for split, prefix in (("train", ""), ("val", "ILSVRC2012_val_")):
        for label, wnid in enumerate(("n01440764", "n01443537")):
            files = sorted((root / split / f"class{label}").iterdir())
            (tmp_path / split / wnid).mkdir(parents=True)
            for number, file in enumerate(files):
                name = f"{prefix or wnid + '_'}{number + label * 100:08d}.JPEG"
                shutil.copy(file, tmp_path / split / wnid / name)
    names = [f.name for f in sorted((tmp_path / "train").rglob("*.JPEG")) if f.name[-6] in "012"]
    (tmp_path / "mine.txt").write_text("\n".join(names) + "\n")
    config = settings(f"imagenet:{tmp_path}", tmp_path / "run", train_split="train-mine")
    semisupervised.run(config)
    record = read_record(tmp_path / "run")
    assert record["data"]["train-mine"]["images"] == len(names) == 6
    assert record["scores"][0]["rules"].endswith("trained on train-mine")


@pytest.mark.parametrize("interrupted_after", [1, 9])  # while choosing, and in the final training
def test_an_interrupted_run_continues_bit_for_bit(data, tmp_path, monkeypatch, interrupted_after):
    def config(name):
        rates = {"learning_rates": (0.05, 0.1), "encoder_rates": (0.01, 0.01)}
        return settings(data, tmp_path / name, freeze="nothing", **rates)

    wanted = semisupervised.run(config("whole"))
    monkeypatch.setattr(semisupervised, "SAVE_SECONDS", 0.0)
    batches, count = semisupervised.ClassifierTraining.batches, 0

    def interrupted(self, first_step):
        nonlocal count
        for batch in batches(self, first_step):
            count += 1
            if count == interrupted_after + 1:
                raise RunFailed("the power went out")
            yield batch

    monkeypatch.setattr(semisupervised.ClassifierTraining, "batches", interrupted)
    with pytest.raises(RunFailed, match="the power went out"):
        semisupervised.run(config("broken"))
    assert semisupervised.run(config("broken")) == wanted
    whole, broken = (
        torch.load(tmp_path / name / "checkpoint.pth", weights_only=True)["model"]
        for name in ("whole", "broken")
    )
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())


def test_steps_are_rounded_to_epochs():
    config = semisupervised.Config(steps=20_000, batch_size=256)
    (candidate,) = candidates_of(config, 3680).values()  # Pets: 15 steps per epoch
    assert candidate.epochs == 1333


def test_weight_decay_is_divided_by_the_learning_rate():
    config = semisupervised.Config(
        learning_rates=(0.1, 0.01), weight_decays=(0.0, 1e-4), decay_over_rate=True
    )
    decays = [candidate.weight_decay for candidate in candidates_of(config, 100).values()]
    assert decays == pytest.approx([0, 1e-3, 0, 1e-2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rates": ()}, "learning_rates is"),
        ({"encoder_rates": (0.1, 0.2)}, "used in pairs"),
        ({"freeze": "encoder"}, "but the encoder is frozen"),
        ({"weight_decays": (-1.0,)}, "numbers of 0 or more"),
        ({"epoch_counts": (0,)}, "epoch_counts is"),
        ({"labels": 0.0}, "expected fractions"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"schedule": "steps"}, "schedule is steps and drops"),
        ({"schedule": "steps", "drops": (2.0,)}, "epochs between 0 and 2"),
    ],
)
def test_impossible_settings_are_rejected(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        settings(tmp_path, tmp_path / "run", **changes)
