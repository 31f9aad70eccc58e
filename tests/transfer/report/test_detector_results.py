"""What detectors leave is in the page: small, harmless, and only as far as it is there."""

import json
import re

import pytest
from PIL import Image

from tests.transfer.report.records import SVG, network, write_detector, write_knn, write_record
from transfer.report import detector_results as module
from transfer.report.collect import collect
from transfer.report.detector_results import detectors
from transfer.report.pictures import read_drawing
from transfer.report.render import write_report


def report_of(runs, tmp_path):
    page = write_report([runs], tmp_path / "report")
    return page.read_text(), page.with_name("report.md").read_text()


@pytest.fixture
def runs(tmp_path):
    """A detector, and the kNN score of its untrained twin."""
    write_detector(tmp_path / "runs" / "ours", network())
    write_knn(tmp_path / "runs" / "knn", 30.0, network(random=True))
    return tmp_path / "runs"


@pytest.fixture
def pair(runs):
    """The twin's detector, too."""
    write_detector(runs / "random", network(random=True))
    return runs


def test_a_detector_has_its_facts_its_losses_and_what_it_drew(runs):
    (part,) = detectors(collect([runs]))
    assert part.title == "digits_voc_trainval → digits_voc_test, torchvision, 400 test images"
    (ours,) = part.runs
    assert (ours.label, ours.seed) == ("msbreg resnet18-tiny", 0)
    assert ours.scores == "box AP 20.0, AP50 40.0, AP75 10.0"
    assert ours.facts["engine"] == "torchvision 0.29.2"
    assert ours.facts["iterations"] == "40"
    assert "proposals, objectness" in ours.figure
    assert [drawing.title for drawing in ours.drawings] == [
        "Precision and recall of boxes",
        "Surest hits and misses",
    ]
    assert ours.drawings[0].markup.startswith("<svg")
    assert 'src="data:image/webp;base64,' in ours.drawings[1].markup


def test_page_and_text_have_the_section(pair, tmp_path):
    page, text = report_of(pair, tmp_path)
    assert '<h2 id="detectors">' in page
    assert page.count("data:image/webp") == 2
    assert "zero AP 12.5" in page
    assert "<svg" not in text
    for written in (page, text):
        assert "torchvision 0.29.2" in written
        assert "VOC 11-point AP" in written
    assert "| AP50 (box, VOC 11-point AP) |" in text
    assert "| zero | 12.5 | 12.5 | 12.5 | 12.5 |" in text


def test_ids_of_drawings_stay_apart_and_have_no_strangers(pair, tmp_path):
    page, _ = report_of(pair, tmp_path)
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert sum(name.endswith("-tick") for name in ids) == 2


def test_what_a_run_warns_of_stands_above_the_runs_once(runs, tmp_path):
    for name in ("c", "d"):
        write_detector(runs / name, network(7, sha256=name), warnings=["3 images are trained on"])
    (part,) = detectors(collect([runs]))
    assert part.warnings == {"3 images are trained on": [runs / "c", runs / "d"]}
    assert report_of(runs, tmp_path)[0].count('<p class="say warn">3 images are trained on') == 1


def test_an_svg_brings_only_lines_and_text(tmp_path):
    evil = SVG.replace(
        "<g ",
        "<script>alert(1)</script><style>*{color:red}</style><foreignObject><b>x</b></foreignObject>"
        '<image href="http://example.org/a.png"/><a href="http://example.org">x</a>'
        '<text onclick="alert(1)" style="fill: url(http://example.org)">&lt;b&gt;</text>'
        '<use href="http://example.org/a.svg#b"/><g ',
        1,
    )
    (tmp_path / "a.svg").write_text(evil)
    markup = read_drawing(tmp_path / "a.svg", 'of "boxes"', name="one").markup
    for word in ("script", "style>", "foreignObject", "image", "onclick", "http", "alert", "<b>"):
        assert word not in markup
    assert "&lt;b&gt;" in markup
    assert 'aria-label="of &quot;boxes&quot;"' in markup


def test_an_svg_is_made_small_and_stays_what_it_shows(tmp_path):
    (tmp_path / "a.svg").write_text(SVG)
    markup = read_drawing(tmp_path / "a.svg", "curves", name="one").markup
    assert 'd="M1.2 2L3.5 2L4.8 1"' in markup  # the point on the level stretch has gone
    assert 'clip-path="url(#one-clip)"' in markup
    assert 'viewBox="0 0 684 280"' in markup


def test_a_picture_that_is_larger_than_the_page_is_made_smaller(tmp_path):
    Image.new("RGBA", (2800, 100), (0, 90, 0, 255)).save(tmp_path / "a.png")
    assert 'width="1400" height="50"' in read_drawing(tmp_path / "a.png", "a", name="a").markup


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("curves_box.svg", None, "is not there"),
        ("curves_box.svg", b"<svg", "is no SVG"),
        ("curves_box.svg", b"<html/>", "is no SVG"),
        ("curves_box.svg", b"\xff\xfe\xfa", "cannot be read"),
        ("detections.png", None, "is not there"),
        ("detections.png", b"no picture", "cannot be read"),
        ("curve.jsonl", None, "is not there"),
        ("curve.jsonl", b"{", "cannot be read"),
        ("curve.jsonl", b'{"epoch": 3}', "holds no iteration"),
        ("per_class.json", None, "is not there"),
        ("per_class.json", b'{"box": {"classes": [3]}}', "is not as this suite writes it"),
        ("per_class.json", b'{"box": {"classes": 3}}', "is not as this suite writes it"),
    ],
)
def test_a_file_that_is_missing_or_broken_is_said_in_words(runs, tmp_path, name, content, words):
    file = runs / "ours" / name
    file.unlink() if content is None else file.write_bytes(content)
    for written in report_of(runs, tmp_path):
        assert re.search(rf"ours/{re.escape(name).replace('_', '.?_')} {words}", written)


def test_only_files_in_the_run_s_own_folder_are_taken(runs, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.png")
    for names in (["../../secret.png"], [3], [str(tmp_path / "secret.png")]):
        record = json.loads((runs / "ours" / "record.json").read_text())
        (runs / "ours" / "record.json").write_text(json.dumps(record | {"drawings": names}))
        (part,) = detectors(collect([runs]))
        assert part.runs[0].drawings == []


def test_the_page_has_a_limit_and_first_runs_come_first(runs, monkeypatch):
    write_detector(runs / "again", network(), config={"seed": 1})
    write_detector(runs / "other", network(5, name="other"))
    (part,) = detectors(collect([runs]))
    sizes = {s.run.folder.name: sum(len(d.markup) for d in s.drawings) for s in part.runs}
    monkeypatch.setattr(module, "LIMIT", sizes["again"] + sizes["other"])
    (part,) = detectors(collect([runs]))
    room = {s.run.folder.name: [d.problem for d in s.drawings] for s in part.runs}
    assert [s.run.folder.name for s in part.runs] == ["again", "ours", "other"]
    assert room["again"] == room["other"] == ["", ""]
    for name, problem in zip(("curves_box.svg", "detections.png"), room["ours"], strict=True):
        assert re.search(rf"left out, .* below .* MB: see .*ours/{name}\.", problem)


def test_an_evaluated_detector_has_no_losses(runs, tmp_path):
    provenance = network(9, iteration=24_000)
    write_detector(runs / "only", provenance, config={"eval_only": True})
    shown = [s for part in detectors(collect([runs])) for s in part.runs]
    (only,) = (s for s in shown if s.run.folder.name == "only")
    assert only.figure is None
    assert only.facts["trained before, iterations"] == "24,000"
    assert "learning rate" not in only.facts
    assert "Evaluated only" in report_of(runs, tmp_path)[0]


def test_an_unfinished_detector_shows_how_far_it_came(runs, tmp_path):
    folder = write_detector(runs / "late", network(), status="failed", yaml={"SOLVER.MAX_ITER": 90})
    record = json.loads((folder / "record.json").read_text())
    for name in ("network", "engine", "data", "metric", "drawings"):
        del record[name]
    (folder / "record.json").write_text(json.dumps(record | {"results": {}}))
    *_, last = detectors(collect([runs]))
    assert last.title == "not finished"
    assert last.runs[0].facts["iterations"] == "40 of 90"
    assert last.runs[0].figure
    for written in report_of(runs, tmp_path):
        assert "40 of 90" in written


def test_several_evaluations_are_drawn(runs):
    file = runs / "ours" / "curve.jsonl"
    (part,) = detectors(collect([runs]))
    assert "AP, AP50 [%]" not in part.runs[0].figure
    early = {"iteration": 20, "scores": {"box_AP": 3.0, "box_AP50": None}}
    file.write_text(json.dumps(early) + "\n" + file.read_text())
    (part,) = detectors(collect([runs]))
    assert "AP, AP50 [%]" in part.runs[0].figure


def test_a_report_without_detectors_has_no_section(tmp_path):
    write_knn(tmp_path / "runs" / "knn", 60.0, network())
    page, text = report_of(tmp_path / "runs", tmp_path)
    assert 'id="detectors"' not in page
    assert "Detectors" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"results": {"box_AP": None, "box_AP50": None, "box_AP75": None}},
        {"results": None},
        {"network": None},
        {"engine": "torchvision"},
        {"data": {"test": "voc"}},
        {"data": {"train": None, "test": {"name": "a"}}},
        {"warnings": None},
        {"schema": 99},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_one_bad_record_leaves_the_report_of_the_others(runs, tmp_path, changes):
    file = runs / "ours" / "record.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    page, text = report_of(runs, tmp_path)
    assert "random resnet18-tiny" in page
    if "box_AP" not in (changes.get("results") or {}):
        for written in (page, text):
            assert re.search(r"Not read(.|\n)*ours/record\.json (lacks|has schema)", written)


def test_a_record_that_is_no_json_leaves_the_report_of_the_others(runs, tmp_path):
    (runs / "ours" / "record.json").write_text("{")
    page, _ = report_of(runs, tmp_path)
    assert "ours/record.json is not JSON" in page
    assert "random resnet18-tiny" in page


def test_other_kinds_may_have_data_of_any_form(tmp_path, runs):
    write_record(runs / "other", kind="segmentation", config={}, data={"what": [1]})
    assert "segmentation" in report_of(runs, tmp_path)[0]
