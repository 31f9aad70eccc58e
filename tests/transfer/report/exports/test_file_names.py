"""Each format has one function and one file."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.transfer.report.records import network, score, write_scores
from transfer.report.exports.file_names import FILES
from transfer.report.render import FORMATS, write_report

SCRIPT = Path(__file__).resolve().parents[4] / "tools" / "report.py"


def test_every_format_has_a_file_name_and_a_function():
    assert list(FORMATS) == list(FILES)
    assert len(set(FILES.values())) == len(FILES)


def test_all_formats_are_written_by_default(tmp_path):
    write_scores(tmp_path / "runs", network(), score(60.0))
    page = write_report([tmp_path / "runs"], tmp_path / "report")
    assert page == tmp_path / "report" / "report.html"
    assert {path.name for path in page.parent.iterdir()} == set(FILES.values())


def test_only_the_given_formats_are_written(tmp_path):
    write_scores(tmp_path / "runs", network(), score(60.0))
    first = write_report([tmp_path / "runs"], tmp_path / "report", ["csv", "md"])
    assert first.name == "scores.csv"
    assert {path.name for path in first.parent.iterdir()} == {"scores.csv", "report.md"}


@pytest.mark.parametrize("formats", ["pdf", "html,html", ""])
def test_an_unknown_format_is_a_short_error_before_anything_is_read(tmp_path, formats):
    write_scores(tmp_path / "runs", network(), score(60.0))
    command = [sys.executable, str(SCRIPT), "runs", f"--formats={formats}", "--output=out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "expected different ones of html,md,csv,json,tex" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
