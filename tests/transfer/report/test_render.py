"""Both reports are single, safe and small files that state what is missing."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from msbreg.run.errors import UserError
from tests.transfer.report.full_page import SECTIONS, write_full, write_runs
from tests.transfer.report.parsed_page import Page, without_script
from tests.transfer.report.records import (
    network,
    score,
    write_knn,
    write_pretraining,
    write_record,
    write_scores,
)
from transfer.report import run_sections
from transfer.report.render import write_report

SCRIPT = Path(__file__).resolve().parents[3] / "tools" / "report.py"


@pytest.fixture
def runs(tmp_path):
    return write_runs(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Both reports of these runs."""
    folder = tmp_path_factory.mktemp("report")
    return report_of(write_runs(folder), folder)


def report_of(runs, tmp_path):
    page = write_report([runs], tmp_path / "report")
    return page.read_text(), page.with_name("report.md").read_text()


def test_the_page_loads_no_external_resources(written):
    page, _ = written
    outline = Page(without_script(page))
    assert outline.loads
    assert all(
        value.startswith(("#", *(f"data:image/{kind};base64," for kind in ("png", "webp", "jpeg"))))
        for value in outline.loads
    )
    assert not outline.tags & {"script", "link", "iframe", "object"}
    assert all(target.startswith("url(#") for target in re.findall(r"url\(.", page))
    assert "http" not in page.replace("http-equiv", "")
    assert "@import" not in page


def test_a_report_of_everything_has_every_section(tmp_path):
    page, text = report_of(write_full(tmp_path), tmp_path)
    assert [e.attributes["id"] for e in Page(page).all("h2")] == list(SECTIONS)
    titles = [e.text for e in Page(page).all("h2")]
    assert re.findall(r"^## (.*)$", text, flags=re.MULTILINE) == [
        {"Overview": "Beside published numbers"}.get(title, title) for title in titles
    ]


def test_every_tag_of_the_page_is_closed(written):
    assert {"svg", "table", "details"} <= Page(written[0]).tags


def test_ids_of_the_page_are_unique_and_every_anchor_has_its_target(runs, tmp_path):
    write_pretraining(runs / "second", epochs=2)
    page, _ = report_of(runs, tmp_path)
    ids = re.findall(r'\sid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert {v[1:] for v in Page(page).loads if v.startswith("#")} <= set(ids)


def test_text_from_records_is_escaped(tmp_path):
    evil = "<script>alert(1)</script> | `x`"
    write_knn(tmp_path / "runs", 60.0, network(name=evil), warnings=[evil], command=evil)
    page, text = report_of(tmp_path / "runs", tmp_path)
    assert "script" not in Page(without_script(page)).tags
    assert evil in "".join(Page(page).text)
    assert "<script" not in text
    assert "\\| \\`x\\`" in text


def test_rows_of_markdown_tables_have_equal_lengths(written):
    _, text = written
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    # summary, scores 3, classes 2, curves 2, neighbors, unfinished, data
    assert len(tables) == 11
    for table in tables:
        rows = [re.findall(r"(?<!\\)\|", line) for line in table.splitlines()]
        assert len({len(bars) for bars in rows}) == 1
        assert re.fullmatch(r"\|(:---\||---:\|)+", table.splitlines()[1])


def test_the_scores_and_their_footnote_are_in_both_files(written):
    for content in written:
        content = re.sub(r"</?(b|span|small)[^>]*>|\s+", " ", content)
        assert re.search(r"60\.5\s+± 0\.7\s+\(2 seeds\)", content)
        assert "folds = 5 (the rest: absent)" in content
        assert "nothing is selected" in content
        assert re.search(r"disk \\?\| full at 3", content)


def test_a_warning_is_shown_with_its_run(written):
    page, text = written
    assert '<p class="say warn">epoch 2: the embeddings are collapsing' in page
    assert "Warning: epoch 2: the embeddings are collapsing" in text


def test_unfinished_runs_and_unreadable_records_are_collapsed(runs, tmp_path):
    (runs / "odd").mkdir()
    (runs / "odd" / "record.json").write_text('{"schema": 1}')
    page, text = report_of(runs, tmp_path)
    assert "<details><summary>Files that could not be read: 1</summary>" in page
    assert "<details><summary>Unfinished runs: 1</summary>" in page
    assert "odd/record.json is not a complete record" in text


def test_missing_images_are_counted(runs, tmp_path):
    (tmp_path / "images" / "1.png").unlink()
    for written in report_of(runs, tmp_path):
        assert "1 of 3 images can no longer be read" in written


def test_a_missing_curve_is_named(runs, tmp_path):
    (runs / "pretrain" / "curve.jsonl").unlink()
    for written in report_of(runs, tmp_path):
        assert "pretrain/curve.jsonl does not exist" in written


def test_a_run_that_has_just_started_has_a_plot(tmp_path):
    write_pretraining(tmp_path / "runs", epochs=0, status="running")
    page, text = report_of(tmp_path / "runs", tmp_path)
    assert "effective rank</text>" in page
    assert "No finished evaluation" in text


def test_text_of_a_curve_is_escaped_in_both_files(tmp_path):
    folder = write_pretraining(tmp_path / "runs")
    evil = "<script>alert(1)</script>|`x`"
    row = {"epoch": 1, evil: 2.5, "total": evil, "std": evil, "spectrum": [evil]}
    (folder / "curve.jsonl").write_text((json.dumps(row) + "\n") * 2)
    page, text = report_of(folder, tmp_path)
    assert "script" not in Page(without_script(page)).tags
    assert "<script" not in text
    assert "alert(1)" in "".join(Page(page).text)


def test_a_network_without_other_files_than_its_record_is_shown(tmp_path):
    write_scores(tmp_path / "runs", network(), score(40.0, rules="rules | of *mine*"))
    page, text = report_of(tmp_path / "runs", tmp_path)
    assert "rules | of *mine*" in page
    assert "rules \\| of \\*mine\\*, %" in text


def test_a_name_that_is_not_unicode_does_not_stop_the_report(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "runs") + b"/\xff"))
    write_scores(folder, network(), score(40.0), warnings=["a"])
    page, _ = report_of(tmp_path / "runs", tmp_path)
    assert "40.0" in page


def test_long_records_do_not_exceed_the_page_limit(tmp_path):
    long = "x" * 5_000
    for number in range(200):
        provenance = network(number, name=f"{number} {long}", source=long, sha256=f"{number}{long}")
        write_scores(
            tmp_path / "runs" / str(number),
            provenance,
            score(40.0, per_class={f"{k} {long[:200]}": 1.0 for k in range(120)}),
            command=long,
            warnings=[long] * 30,
            digest=f"{number}",
            config={"a": long, "b": number},
        )
    page, text = report_of(tmp_path / "runs", tmp_path)
    assert len(page) < 6_000_000
    assert len(text) < 6_000_000
    assert "Not shown: 50 more networks" in page


def test_a_record_without_its_network_gives_a_clear_error(tmp_path):
    write_record(tmp_path / "runs", kind="knn", config={}, network={"name": "a"})
    with pytest.raises(UserError, match=r"of the wrong type: network\.arch, "):
        write_report([tmp_path], tmp_path / "report")


def test_an_output_that_cannot_be_a_folder_gives_a_clear_error(runs, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_report([runs], tmp_path / "file")


def test_a_wrong_path_gives_one_message_and_exit_code_2_from_any_folder(tmp_path):
    command = [sys.executable, str(SCRIPT), "nowhere", "--output", "report"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere does not exist")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report").exists()


def test_the_difference_to_the_untrained_twin_has_a_spread(tmp_path):
    for seed in range(2):
        write_knn(tmp_path / "runs" / f"a{seed}", 60.0 + 3 * seed, network(seed))
        write_knn(tmp_path / "runs" / f"b{seed}", 30.0 + 4 * seed, network(seed, random=True))
    for content in report_of(tmp_path / "runs", tmp_path):
        row = content[content.index("minus random") :]
        row = re.sub(r"<[^>]*>|[|]|\s+", " ", row[: row.index("\n\n")])
        # (60 + 63) / 2 - (30 + 34) / 2, with the spreads 2.12 and 2.83 added in quadrature
        assert re.search(r"\+29\.5\s+± 3\.5", row), row


def test_wide_tables_and_curves_scroll_instead_of_being_cut_off(written):
    page, _ = written
    assert re.search(r"\.wide\s*\{[^}]*overflow-x:\s*auto", page)
    outside = re.sub(r'<div class="[^"]*\bwide\b[^"]*"[^>]*>.*?</div>', "", page, flags=re.DOTALL)
    assert "<table" in page
    assert "<table" not in outside


def test_the_plane_of_a_pretraining_has_its_caption(tmp_path):
    page, _ = report_of(write_pretraining(tmp_path / "runs"), tmp_path)
    assert "uniformity over alignment</text>" in page
    assert page.count("so only directions can be compared with this run") == 1


def test_each_curve_is_drawn_once(runs, tmp_path, monkeypatch):
    drawn = []
    draw = run_sections.draw_curve
    monkeypatch.setattr(
        run_sections, "draw_curve", lambda *a, **o: (drawn.append(1), draw(*a, **o))[1]
    )
    report_of(runs, tmp_path)
    assert 0 < len(drawn) <= len(list(runs.rglob("curve.jsonl")))


@pytest.mark.parametrize("form", ["html", "md"])
def test_the_page_names_the_input_of_the_checkpoint_and_of_its_untrained_twin(tmp_path, form):
    caffe = {"mean": [0.406, 0.456, 0.485], "std": [0.225, 0.224, 0.229], "channels": "BGR"}
    spec = {"normalization": caffe, "stride": "1x1", "image_size": 96}
    write_knn(tmp_path / "a", 60.0, network(**spec))
    write_knn(tmp_path / "b", 30.0, network(random=True, **spec))
    page = write_report([tmp_path], tmp_path / "report").with_suffix(f".{form}").read_text()
    stated = (
        "BGR / 255, mean 0.406, 0.456, 0.485, std 0.225, 0.224, 0.229; images of 96 pixels; stride 2 in "
        "the 1x1 convolutions"
    )
    assert page.count(stated) == 2


def test_a_record_with_an_impossible_normalization_is_listed_as_invalid(tmp_path):
    wrong = {"mean": [0.4], "std": [0.2], "channels": "RGB"}
    write_knn(tmp_path / "a", 60.0, network())
    write_knn(tmp_path / "b", 30.0, network(normalization=wrong))
    page = write_report([tmp_path], tmp_path / "report").read_text()
    assert "the normalization has channels RGB" in page
