"""The report shows each certificate, and whether it applies to the current file."""

import json
import re

import pytest

from msbreg.checkpoints.convert.convert import TARGETS, convert
from tests.msbreg.checkpoints.convert.realistic_networks import moved, provenance
from tests.transfer.report.parsed_page import without_script
from tests.transfer.report.records import network, write_knn
from transfer.report.conversions import find_conversions
from transfer.report.render import write_report


@pytest.fixture
def converted(tmp_path):
    """A run, and a converted backbone below the same folder; returns the file."""
    runs = tmp_path / "runs"
    write_knn(runs / "knn", 60.0, network())
    (runs / "pretrain").mkdir()
    output = runs / "pretrain" / "checkpoint_d2.pkl"
    convert(moved(), provenance(), output, TARGETS["detectron2"])
    return output


def report_of(output):
    runs = output.parents[1]
    page = write_report([runs], runs.parent / "report")
    return page.read_text(), page.with_name("report.md").read_text()


def test_both_files_show_target_reader_errors_and_settings(converted):
    for content in report_of(converted):
        message = re.sub(r"<[^>]*>|\\|&#34;|\s+", " ", content)
        assert "detectron2: checkpoint" in message
        assert "passed" in message
        assert message.count("120/120") == 1
        assert re.search(r"65x96 .*\de-\d\d", message)
        assert "STRIDE" in message
        assert "MODEL.PIXEL" in message


def test_a_folder_that_is_given_twice_is_shown_once(converted):
    runs = converted.parents[1]
    assert len(find_conversions([runs, converted.parent])) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda path: path.unlink(),
            "checkpoint_d2.pkl cannot be read (No such file or directory)",
        ),
        (lambda path: path.write_bytes(b"other"), "is not the file that was certified"),
    ],
    ids=["gone", "another"],
)
def test_a_certificate_whose_file_is_missing_or_changed_is_marked(converted, change, message):
    change(converted)
    for content in report_of(converted):
        assert message in content.replace("\\", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid JSON"), ("[]", "is not a certificate"), ("{}", "is not a certificate")],
)
def test_a_file_that_is_not_a_certificate_is_named(converted, text, message):
    converted.with_name(converted.name + ".certificate.json").write_text(text)
    for content in report_of(converted):
        assert message in content.replace("\\", "")


def test_text_from_certificates_is_escaped(converted):
    path = converted.with_name(converted.name + ".certificate.json")
    content = json.loads(path.read_text())
    content["readings"][0]["reader"] = "<script>alert(1)</script> | x"
    path.write_text(json.dumps(content))
    page, text = report_of(converted)
    assert "<script" not in without_script(page)
    assert "<script" not in text
    assert "\\| x" in text


def test_a_report_without_conversions_has_no_section(tmp_path):
    write_knn(tmp_path / "runs" / "knn", 60.0, network())
    page = write_report([tmp_path / "runs"], tmp_path / "report")
    assert "Conversion" not in page.read_text()
