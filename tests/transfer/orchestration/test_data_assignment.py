"""Each protocol finds its data below a root, or is listed with what to fetch and where it must lie."""

import dataclasses

import pytest

from msbreg.run.errors import UserError
from tests.msbreg.data.classification.fine_grained_trees import FINE_GRAINED_TREES
from tests.msbreg.data.classification.published_trees import imagenet_tree
from tests.msbreg.data.classification.variant_trees import VARIANT_TREES
from tests.msbreg.data.segmentation.map_trees import folders_tree
from tests.transfer.boxes_data import make_voc
from transfer.orchestration.data_assignment import CARDS, assign
from transfer.orchestration.data_sets import DATA_SETS
from transfer.orchestration.protocols import PROTOCOLS, Protocol
from transfer.orchestration.suite_config import Config


def data_of(config: Config) -> dict[str, tuple[str, str]]:
    """Name of a protocol -> its data and the stem of its card."""
    return {
        one.protocol.name: (one.data, one.card.stem if one.card else "")
        for one in assign(config)[0]
    }


@pytest.fixture
def root(tmp_path):
    imagenet_tree(tmp_path / "root" / "imagenet")
    VARIANT_TREES["imagenet-r"][0](tmp_path / "root" / "imagenet-r")
    FINE_GRAINED_TREES["dtd"][0](tmp_path / "root" / "DTD")
    make_voc(tmp_path / "root" / "VOCdevkit")
    return tmp_path / "root"


def test_data_sets_below_a_root_get_the_published_cards(root):
    found = data_of(Config(data=(str(root),)))
    assert found["knn"] == (f"imagenet:{root}/imagenet", "imagenet_knn")
    assert found["linear"] == (f"imagenet:{root}/imagenet", "imagenet_linear")
    assert found["logistic-dtd"] == (f"dtd:{root}/DTD", "fine_grained_logistic")
    assert found["robustness-imagenet-r"] == (f"imagenet-r:{root}/imagenet-r", "")
    assert set(found) == {"gate", "knn", "linear", "logistic-dtd", "robustness-imagenet-r"}


def test_what_is_missing_says_what_to_fetch_and_where_it_must_lie(root):
    _, missing = assign(Config(data=(str(root),)))
    by_name = {one.protocol.name: one for one in missing}
    coco = by_name["coco_mask_fpn"]
    assert coco.place == str(root / "coco")
    assert "cocodataset.org" in coco.fetch
    subset = by_name["imagenet_1pct"]
    assert subset.place == str(root / "imagenet")
    assert "1percent.txt" in subset.fetch
    assert by_name["voc12_fcn"].fetch.count("tools/convert_sbd.py") == 1
    assert "lvis_mask_fpn" not in by_name  # runs only on request


def test_the_lists_of_simclr_make_the_protocols_with_few_labels_possible(root):
    (root / "imagenet" / "10percent.txt").write_text("n01440764_1.JPEG\n")
    found = data_of(Config(data=(str(root),), only=("semisupervised",)))
    assert found["imagenet_10pct"] == (f"imagenet:{root}/imagenet", "imagenet_10pct_msbreg")
    assert "imagenet_1pct" not in found


def test_a_voc_folder_with_other_classes_is_not_taken_for_voc07(tmp_path):
    """It is in VOC's layout, but the folder is not called VOC2007."""
    voc = make_voc(tmp_path) / "VOC2007"
    voc.rename(tmp_path / "colors")
    for label in ("blue", "red"):
        for split in ("trainval", "test"):
            main = tmp_path / "colors" / "ImageSets" / "Main"
            (main / f"{label}_{split}.txt").write_text("000000 1\n")
    found = data_of(Config(data=(str(tmp_path / "colors"),)))
    assert set(found) == {"gate", "svm", "logistic"}
    assert found["svm"] == (f"voc:{tmp_path}/colors", "")


def test_a_folder_of_classes_runs_every_protocol_that_takes_it(tmp_path, make_folder):
    data = make_folder(train=2, test=2)
    assigned, missing = assign(Config(data=(str(data),)))
    assert {one.protocol.name for one in assigned} == {
        *("gate", "knn", "linear", "logistic", "semisupervised")
    }
    assert assigned[1].splits == {"train_split": "train", "val_split": "test"}
    assert missing == ()


def test_label_maps_run_segmentation_and_dense_knn(tmp_path):
    folders_tree(tmp_path / "maps")
    found = data_of(Config(data=(str(tmp_path / "maps"),), cards="photos"))
    assert set(found) == {"segmentation", "dense_knn"}
    assert found["segmentation"] == (f"folders:{tmp_path}/maps", "photos_segmentation")


def test_the_digits_run_every_script():
    assigned, missing = assign(Config())
    names = {one.protocol.name for one in assigned}
    assert names == {
        *("gate", "knn", "svm", "linear", "logistic", "dense_knn", "semisupervised"),
        *("robustness", "depth", "segmentation", "voc_c4", "coco_mask_fpn"),
    }
    assert {one.protocol.script for one in assigned} == {p.script for p in PROTOCOLS}
    assert missing == ()


def test_what_needs_a_skipped_protocol_is_skipped_as_well():
    names = {p.name for p in Config(skip=("linear",)).selected()}
    assert "knn" in names
    assert not {"linear", "robustness", "robustness-imagenet-a"} & names


def test_a_protocol_brings_what_it_needs(root):
    found = data_of(Config(data=(str(root),), only=("robustness-imagenet-r",)))
    assert list(found) == ["gate", "linear", "robustness-imagenet-r"]


def test_variants_and_long_protocols_run_only_on_request():
    names = {p.name for p in Config(only=("detection",)).selected()}
    assert names == {"gate", "voc_c4", "coco_mask_fpn"}
    assert "lvis_mask_fpn" in {p.name for p in Config(only=("lvis_mask_fpn",)).selected()}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"only": ("knnn",)}, r"only: knnn is not a protocol; did you mean knn\?"),
        ({"data": ("digits", "pets:x")}, "expected digits alone"),
        ({"smoke": True, "data": ("x",)}, "smoke uses the embedded digits"),
        ({"only": ("knn",), "skip": ("knn",)}, "leaves no protocol"),
        ({"checkpoint": "a", "checkpoints": ("b",)}, "expected one of the two options"),
        ({"random_seeds": -1}, "expected 0 or more"),
    ],
)
def test_options_that_do_not_fit_are_rejected_at_once(given, words):
    with pytest.raises(UserError, match=words):
        Config(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"data": ("/no/such",)}, "'/no/such' is neither a folder nor a known name"),
        ({"data": ("petz:/x",)}, r"unknown layout 'petz'; did you mean pets\?"),
        ({"detectors": ("digits_knn",)}, r"digits_knn is not a detector card(.|\n)*digits_voc_c4"),
        ({"detectors": ("nothing",)}, r"nothing\.yaml does not exist; expected one of: .*voc_c4"),
        ({"cards": "nothing"}, r"no card .*nothing_SCRIPT\.yaml .*expected one of: .*photos"),
    ],
)
def test_unknown_data_and_cards_are_rejected(given, words):
    with pytest.raises(UserError, match=words):
        assign(Config(**given))


def test_a_detector_with_unsupported_settings_is_rejected(tmp_path, monkeypatch):
    monkeypatch.setattr("transfer.orchestration.data_assignment.CARDS", tmp_path)
    (tmp_path / "odd.yaml").write_text("VERSION: 2\nTEST:\n  AUG:\n    ENABLED: True\n")
    (tmp_path / "digits_knn.yaml").write_text("")
    with pytest.raises(UserError, match=r"TEST\.AUG\.ENABLED"):
        assign(Config(detectors=("odd",), only=("knn",)))


def test_a_folder_without_the_given_layout_is_rejected_before_any_task_runs(make_folder):
    data = make_folder(train=2, val=2)
    with pytest.raises(UserError, match="does not have the layout voc") as error:
        assign(Config(data=(f"voc:{data}",)))
    assert "Found: train, val" in str(error.value)
    assert f"use folder:{data}" in str(error.value)


def test_an_empty_folder_is_rejected_with_what_is_expected(tmp_path):
    with pytest.raises(
        UserError, match=r"takes .*\nExpected a folder with data sets in subfolders"
    ):
        assign(Config(data=(str(tmp_path),)))


@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda p: p.name)
def test_every_entry_of_the_table_has_its_script_card_and_data(protocol: Protocol):
    assert (CARDS.parent / "transfer" / f"{protocol.script}.py").is_file()
    for card in (protocol.card, protocol.digits):
        assert not card or (CARDS / f"{card}.yaml").is_file()
    for data in (protocol.data, *protocol.instead):
        assert not data or data in DATA_SETS
    known = [p.name for p in PROTOCOLS]
    assert set(protocol.needs) <= set(known[: known.index(protocol.name)])
    assert known.count(protocol.name) == 1
    assert dataclasses.replace(protocol).called(protocol.script)
