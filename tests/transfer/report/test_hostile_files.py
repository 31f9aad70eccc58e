"""Invalid files anywhere in a run's folder are named, and the report of the other runs is written."""

import json
import os
import re
import socket

import pytest

from tests.transfer.report.parsed_page import without_script
from tests.transfer.report.records import (
    network,
    write_detector,
    write_knn,
    write_neighbors,
    write_pretraining,
    write_svm,
)
from transfer.report.render import write_report

BYTES = {
    "empty": b"",
    "nul": b"\0" * 64,
    "binary": bytes(range(256)) * 4,
    "brace": b"{",
    "list": b"[1, 2]",
    "text": b'"text"',
    "number": b"3",
    "null": b"null",
    "true": b"true",
    "strange": b'{"box": {"classes": 3}, "epoch": [], "schema": {}, "path": 1}',
    "open lists": b"[" * 300_000,
    "deep lists": b"[" * 900 + b"]" * 900,
    "deep mappings": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "digits": b"9" * 10_000,
    "huge integer": b'{"epoch": ' + b"9" * 400 + b', "schema": ' + b"9" * 400 + b"}",
    "surrogate": b'{"epoch": 1, "\\ud800": "\\udfff"}',
    "escaped nul": b'[{"path": "a\\u0000b", "class": "c", "neighbors": []}]',
    "infinite": b"[Infinity, -Infinity, NaN, 1e9999]",
    "latin": "\u00e9".encode("latin-1"),
    "markup": b"<svg onload='alert(1)'><script>alert(1)</script></svg>",
}
RECORDS = ("pretrain/record.json", "knn/record.json", "svm/record.json", "detector/record.json")
BESIDE = (
    "pretrain/curve.jsonl",
    "knn/neighbors.json",
    "svm/per_class.json",
    "detector/curve.jsonl",
    "detector/per_class.json",
    "detector/curves_box.svg",
    "detector/detections.png",
    "detector/model.certificate.json",
)


@pytest.fixture
def runs(tmp_path):
    """A run of every kind with all its files, and one run that is not changed."""
    folder = tmp_path / "runs"
    write_pretraining(folder / "pretrain")
    write_neighbors(write_knn(folder / "knn", 60.0, network()), tmp_path / "images")
    write_svm(folder / "svm", network(), {"cat": 50.0})
    write_detector(folder / "detector", network())
    write_knn(folder / "good", 77.7, network(random=True))
    return folder


def assert_named(runs, positions):
    page = write_report([runs], runs.parent / "report")
    for written in (without_script(page.read_text()), page.with_name("report.md").read_text()):
        assert "77.7" in written
        assert "<script" not in written
        for position in positions:
            assert re.search(re.escape(position).replace("_", r"\\?_"), written), position


@pytest.mark.parametrize("positions", [RECORDS, BESIDE], ids=["records", "beside"])
@pytest.mark.parametrize("content", BYTES.values(), ids=BYTES.keys())
def test_invalid_content_is_named_and_the_rest_is_reported(runs, positions, content):
    for position in positions:
        (runs / position).write_bytes(content)
    assert_named(runs, positions)


@pytest.mark.parametrize("positions", [RECORDS, BESIDE], ids=["records", "beside"])
@pytest.mark.parametrize(
    "kind", ["folder", "pipe", "socket", "loop", "device", "dangling", "large"]
)
def test_special_files_are_named_and_the_rest_is_reported(runs, positions, kind, monkeypatch):
    for position in positions:
        file = runs / position
        file.unlink(missing_ok=True)
        if kind == "folder":
            file.mkdir()
        elif kind == "pipe":
            os.mkfifo(file)
        elif kind == "socket":
            monkeypatch.chdir(file.parent)  # the path of a socket is limited to 107 characters
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(file.name)
        elif kind == "large":
            with file.open("wb") as sparse:
                sparse.truncate(10**9)
        else:
            target = {"loop": file.name, "device": "/dev/zero", "dangling": "nowhere"}[kind]
            file.symlink_to(target)
    assert_named(runs, positions)


VALUES = [
    None,
    True,
    3,
    -1,
    1e300,
    10**30,
    "a",
    "<script>alert(1)</script>",
    [],
    [[]],
    {},
    {"a": {}},
]


def paths_of(value, prefix=()):
    """Every key of a nested mapping."""
    for key, below in value.items():
        yield (*prefix, key)
        if isinstance(below, dict):
            yield from paths_of(below, (*prefix, key))


@pytest.mark.parametrize("name", ["pretrain", "knn", "svm", "detector"])
def test_wrong_types_in_a_record_do_not_affect_the_report_of_others(runs, name):
    """All copies share one report: hundreds of reports would take minutes."""
    record = json.loads((runs / name / "record.json").read_text())
    count = 0
    for path in paths_of(record):
        for value in VALUES:
            changed = json.loads(json.dumps(record))
            parent = changed
            for key in path[:-1]:
                parent = parent[key]
            parent[path[-1]] = value
            folder = runs / "changed" / f"{count:04d}"
            folder.mkdir(parents=True)
            (folder / "record.json").write_text(json.dumps(changed))
            count += 1
    page = write_report([runs], runs.parent / "report").read_text()
    assert count > 300
    assert "77.7" in page
    assert "<script" not in without_script(page)
    assert len(page) < 6_000_000


@pytest.mark.parametrize(
    "path",
    ["/dev/zero", "a\0b", "", "/", "x" * 5_000, "\ud800", "../../../etc/passwd"],
    ids=["device", "nul", "empty", "root", "long", "surrogate", "text file"],
)
def test_the_path_of_a_neighbor_may_be_anything(runs, path):
    near = {"path": path, "class": "a", "similarity": 0.5}
    rows = [{"path": path, "class": "a", "neighbors": [near]}]
    (runs / "knn" / "neighbors.json").write_text(json.dumps(rows))
    page = write_report([runs], runs.parent / "report").read_text()
    assert "images can no longer be read" in page or "neighbors.json is not valid JSON" in page


def test_a_folder_that_cannot_be_opened_is_named(runs):
    if os.geteuid() == 0:
        pytest.skip("root may open every folder")
    (runs / "knn").chmod(0)
    try:
        assert_named(runs, ["runs/knn"])
    finally:
        (runs / "knn").chmod(0o700)
