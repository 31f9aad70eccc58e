"""Scores of detectors: which stand in one column, under which title, in which table."""

import json

import pytest

from msbreg.run.record import left_out
from tests.transfer.report.records import network, write_detector, write_knn
from tests.transfer.report.test_tables import only_entry, table_of
from transfer.detectors.detection_config import Config
from transfer.report.collect import column_title, data_title
from transfer.report.parts import parts_of


def test_detectors_have_a_column_for_each_metric_and_engine(tmp_path):
    write_detector(tmp_path / "a", network(), engine="torchvision")
    write_detector(tmp_path / "b", network(), engine="detectron2")
    columns = table_of(tmp_path).columns
    titles = [f"box {name} (VOC 11-point AP)" for name in ("AP50", "AP75", "AP")]
    assert [column_title(c) for c in columns] == titles * 2
    names = [data_title(c, columns) for c in columns]
    words = "digits_voc_trainval → digits_voc_test, {}, 400 test images"
    assert names[0] == words.format("detectron2")
    assert names[3] == words.format("torchvision")


def test_boxes_come_before_masks_each_by_its_own_rules(tmp_path):
    results = {f"{w}_{n}": 10.0 for w in ("mask", "box") for n in ("AP75", "AP50", "AP")}
    write_detector(tmp_path / "a", network(), results, metric="COCO bbox AP, COCO segm AP")
    titles = [column_title(c) for c in table_of(tmp_path).columns]
    assert titles == [
        *(f"box {name} (COCO bbox AP)" for name in ("AP", "AP50", "AP75")),
        *(f"mask {name} (COCO segm AP)" for name in ("AP", "AP50", "AP75")),
    ]


@pytest.mark.parametrize(
    ("metric", "title"), [("VOC AP, 11 points", "box AP (VOC AP, 11 points)"), ("", "box AP")]
)
def test_a_metric_of_any_name_or_of_none_is_said_as_it_is(tmp_path, metric, title):
    write_detector(tmp_path / "a", network(), {"box_AP": 20.0}, metric=metric)
    assert [column_title(c) for c in table_of(tmp_path).columns] == [title]


def test_a_record_without_a_metric_has_no_other_column_than_its_own(tmp_path):
    write_detector(tmp_path / "a", network())
    folder = write_detector(tmp_path / "b", network())
    record = json.loads((folder / "record.json").read_text())
    del record["metric"]
    (folder / "record.json").write_text(json.dumps(record))
    assert len(table_of(tmp_path).columns) == 6


def test_detectors_of_other_training_images_have_titles_of_their_own(tmp_path):
    def splits(train):
        test = {"name": "voc_2007_test", "images": 4952, "fingerprint": "t" * 64}
        return {"train": {"name": "mine", "images": 5, "fingerprint": train}, "test": test}

    write_detector(tmp_path / "a", network(0), data=splits("a" * 64))
    write_detector(tmp_path / "b", network(1), data=splits("b" * 64))
    only_test = {"test": splits("")["test"]}
    write_detector(tmp_path / "c", network(2), data=only_test, config={"eval_only": True})
    columns = table_of(tmp_path).columns
    titles = {data_title(c, columns) for c in columns}
    assert titles == {
        "mine → voc_2007_test, torchvision, 4952 test images (train aaaaaaaa)",
        "mine → voc_2007_test, torchvision, 4952 test images (train bbbbbbbb)",
        "voc_2007_test, eval only, torchvision, 4952 test images",
    }


def test_a_result_that_is_no_number_is_no_score(tmp_path):
    write_detector(tmp_path / "a", network(0), {"box_AP": None, "box_AP50": float("nan")})
    write_detector(tmp_path / "b", network(1), {"box_AP": "high", "box_AP50": 40.0})
    table = table_of(tmp_path)
    assert [c.metric for c in table.columns] == ["box_AP50"]
    assert [str(e) for row in table.cells for e in row[0].values()] == ["40.0"]


def test_trials_of_one_network_are_a_mean_with_its_spread(tmp_path):
    for seed, ap50 in enumerate((80.0, 81.0, 85.0)):
        results = {"box_AP50": ap50}
        config = {"seed": seed, "trials": 1}
        write_detector(tmp_path / f"trial-{seed}", network(), results, config=config)
    assert str(only_entry(table_of(tmp_path))) == "82.0 ± 2.6 (3 evaluations)"


def test_the_footnote_leaves_out_what_the_record_says_is_no_protocol(tmp_path):
    for number, (rate, output) in enumerate(((0.02, "a"), (0.02, "a"), (0.1, "b"))):
        write_detector(
            tmp_path / str(number),
            network(number),
            digest=str(rate),
            yaml={"SOLVER.BASE_LR": rate, "OUTPUT_DIR": output, "DATALOADER.NUM_WORKERS": number},
            not_protocol=sorted(left_out(Config)),
        )
    (note,) = table_of(tmp_path).notes.values()
    assert note.endswith("column: yaml.SOLVER.BASE_LR = 0.1 (the rest: 0.02)")


def test_each_set_of_images_that_detectors_are_on_is_a_table_with_its_differences(tmp_path):
    write_knn(tmp_path / "knn", 60.0, network())
    write_knn(tmp_path / "other", 50.0, network(5, name="other"))
    write_detector(tmp_path / "ours", network())
    results = {"box_AP": 15.0, "box_AP50": 30.0}
    write_detector(tmp_path / "twin", network(random=True), results)
    frozen, detection = parts_of(table_of(tmp_path))
    assert (frozen.title, frozen.groups, frozen.differences) == ("", [], [])
    assert detection.title == "digits_voc_trainval → digits_voc_test, torchvision, 400 test images"
    assert detection.groups == [("box, VOC 11-point AP", 3)]
    assert [title for title, _ in detection.headings] == ["AP50", "AP75", "AP"]
    assert [label for label, _ in detection.rows] == [
        "msbreg resnet18-tiny",
        "random resnet18-tiny",
    ]
    (row,) = detection.differences
    assert row.cells == [10.0, "", 5.0]


def test_a_trained_detector_is_no_backbone_of_the_same_name(tmp_path):
    write_detector(tmp_path / "a", network())
    whole = network(sha256="tuned", family="detector of this suite")
    write_detector(tmp_path / "b", whole, config={"eval_only": True})
    labels = [n.label for n in table_of(tmp_path).networks]
    assert labels == ["msbreg resnet18-tiny", "msbreg resnet18-tiny, trained detector"]
