"""Each card of kNN, linear classification, SVM and fine-tuning runs on a small tree in its published layout.

Changed are only what would take long: the network, the size of the images, and the number of epochs.
"""

import hashlib
import importlib
import re
from pathlib import Path

import pytest
import yaml

from msbreg.data.classification import imagenet
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.conftest import write_folder
from tests.msbreg.data.classification.published_trees import TREES
from tests.transfer.boxes_data import CARDS
from tests.transfer.labeled_voc import write_labeled_voc

QUICK = {
    "checkpoint": "random",
    "arch": "resnet18-tiny",
    "image_size": "16",
    "device": "cpu",
    "workers": "1",
    "transform.crop": "16",
    "transform.resize": "16",
}
OF_SCRIPT = {
    "knn": "--k 2",
    "linear": "--epochs 3 --batch_size 8 --loading 0 --held_out 0.3",
    "svm": "",
    "semisupervised": "--epoch_counts 3 --batch_size 4 --loading 0 --held_out 0.3",
}
FEW_RATES = "--learning_rates 0.01 0.1"
STEPS = "--drops 1 2"


def script_of(card: Path) -> str:
    """The script that the card's command names."""
    return re.findall(r"python transfer/(\w+)\.py", card.read_text())[0]


def layout_of(card: Path) -> str:
    """The layout that the card's command names; a folder of classes if it names none."""
    named = re.findall(r"--data (\w+):", card.read_text())
    return named[0] if named and named[0] != "LAYOUT" else "folder"


CASES = [
    card
    for card in sorted(CARDS.glob("*.yaml"))
    if "python transfer/" in card.read_text()
    and "python pretrain" not in card.read_text().split("# Expected")[0]
    and script_of(card) in OF_SCRIPT
    and not card.stem.startswith("digits")
]


def write_data(card: Path, root: Path, monkeypatch) -> str:
    """Write a small data set; return the value of --data."""
    if script_of(card) == "svm":
        return str(write_labeled_voc(root))
    layout = layout_of(card)
    if layout == "folder":
        return str(write_folder(root, train=6, val=3))
    TREES["imagenet" if layout == "imagenet100" else layout](root)
    if script_of(card) == "semisupervised":
        for name, file in (("1pct", "1percent.txt"), ("10pct", "10percent.txt")):
            names = sorted(path.name for path in (root / "train").rglob("*.JPEG"))
            (root / file).write_text("\n".join(names[::2] + names[1::4]))
            digest = hashlib.sha256((root / file).read_bytes()).hexdigest()
            monkeypatch.setitem(imagenet.SUBSETS, name, (file, digest))
    return f"{'imagenet' if layout == 'imagenet100' else layout}:{root}"


@pytest.mark.parametrize("card", CASES, ids=lambda card: card.stem)
def test_a_card_runs_on_its_layout(card, tmp_path, monkeypatch):
    script = importlib.import_module(f"transfer.{script_of(card)}")
    settings = yaml.safe_load(card.read_text())
    options = ["--config", str(card), "--data", write_data(card, tmp_path / "data", monkeypatch)]
    options += [word for name, value in QUICK.items() for word in (f"--{name}", value)]
    options += ["--output", str(tmp_path / "run"), *OF_SCRIPT[script_of(card)].split()]
    if script_of(card) != "semisupervised":
        options += ["--cache", str(tmp_path / "cache")]
    if "augmentation" in settings:
        options += ["--augmentation.crop", "16"]
    if settings.get("schedule") == "steps":
        options += STEPS.split()
    if len(settings.get("learning_rates", ())) > 2:
        options += FEW_RATES.split()
    if len(settings.get("weight_decays", ())) > 2:
        options += ["--weight_decays", "1e-4"]
    if "low_shot" in settings:
        options += ["--low_shot", "1", "2"]
    if settings.get("steps"):
        options += ["--steps", "3"]
    script.run(*parse(script.Config, options))
    record = read_record(tmp_path / "run")
    assert record["status"] == "done"
    assert record["card"] == card.stem
    assert record["scores"]
