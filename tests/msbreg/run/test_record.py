import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.record import Record, environment, find_records, protocol_digest, read_record

ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1


@dataclass(frozen=True)
class Settings:
    output: Path = Path("x")
    seed: int = 0
    epochs: int = 3
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Placed(Settings):
    not_protocol: ClassVar[frozenset[str]] = frozenset({"place"})
    place: str = "here"


def test_a_record_contains_settings_and_results(tmp_path):
    record = Record(tmp_path, kind="knn", config=Settings(), card=Card("card", {"epochs": 3}))
    record.write("running")
    assert read_record(tmp_path)["status"] == "running"
    record.content["results"] = {"top1": 61.5}
    record.write("done")
    content = read_record(tmp_path)
    assert content["status"] == "done"
    assert content["results"] == {"top1": 61.5}
    assert content["config"] == {"output": "x", "seed": 0, "epochs": 3, "inner": {"rate": 0.1}}
    assert content["overrides"] == {"epochs": 3}
    assert content["environment"]["packages"]["torch"]


def test_the_digest_does_not_depend_on_output_or_seed():
    same = protocol_digest(Settings())
    assert same == protocol_digest(Settings(output=Path("y"), seed=5))
    assert same != protocol_digest(Settings(epochs=4))
    assert same != protocol_digest(Settings(inner=Inner(rate=0.2)))


def test_records_are_found_below_a_folder_once(tmp_path):
    for name in ("b", "a/c"):
        (tmp_path / name).mkdir(parents=True)
        Record(tmp_path / name, kind="knn", config=Settings(), card=Card()).write("done")
    found = list(find_records([tmp_path, tmp_path / "b"]))
    assert [folder for folder, _ in found] == [tmp_path / "a/c", tmp_path / "b"]


def test_settings_outside_the_protocol_are_listed_in_the_record(tmp_path):
    record = Record(tmp_path, kind="knn", config=Placed(), card=Card()).content
    assert {"output", "seed", "place"} <= set(record["not_protocol"])
    assert "epochs" not in record["not_protocol"]
    assert record["digest"] == protocol_digest(Placed(place="there"))


def test_the_environment_includes_the_version_of_pycocotools():
    assert environment()["packages"]["pycocotools"]


def test_an_unreadable_record_does_not_hide_the_others(tmp_path):
    for name, content in (("a", "{"), ("c", '{"schema": 99}'), ("d", "\u00e9".encode("latin-1"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_bytes(
            content.encode() if isinstance(content, str) else content
        )
    (tmp_path / "b").mkdir()
    Record(tmp_path / "b", kind="knn", config=Settings(), card=Card()).write("done")
    a, b, c, d = (found for _, found in find_records([tmp_path]))
    assert "a/record.json is not valid JSON" in a
    assert b["status"] == "done"
    assert "c/record.json has schema '99'" in c
    assert "d/record.json is not valid JSON" in d


def test_runs_that_a_suite_has_set_aside_are_found_only_inside_that_folder(tmp_path):
    runs = [tmp_path / "pretrained" / "knn", tmp_path / "set-aside" / "pretrained" / "knn-1"]
    for run in runs:
        run.mkdir(parents=True)
        Record(run, kind="knn", config=Settings(), card=Card()).write("done")
    assert [folder for folder, _ in find_records([tmp_path])] == runs[:1]
    assert [folder for folder, _ in find_records([tmp_path / "set-aside"])] == runs[1:]


def test_missing_and_invalid_records_are_reported(tmp_path):
    assert read_record(tmp_path) is None
    with pytest.raises(UserError, match="no record.json found in"):
        list(find_records([tmp_path]))
    with pytest.raises(UserError, match="does not exist"):
        list(find_records([tmp_path / "nothing"]))
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(UserError, match="is not valid JSON"):
        read_record(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps({"schema": 99}))
    with pytest.raises(UserError, match="has schema '99'; this version reads 1 and 2"):
        read_record(tmp_path)


@dataclass(frozen=True)
class Crop:
    resize: int = 256
    crop: int = 224


@dataclass(frozen=True)
class Evaluation(Settings):
    harmless: ClassVar[frozenset[str]] = frozenset({"diagnostics"})
    transform: Crop | None = None
    classes_file: Path | None = None
    save_seconds: float = 60.0
    diagnostics: Inner = field(default_factory=Inner)


def digest_of(tmp_path, config, **resolved):
    record = Record(tmp_path, kind="knn", config=config, card=Card())
    if resolved:
        record.resolve(**resolved)
    return record.content["digest"]


def test_the_digest_is_computed_from_resolved_values(tmp_path):
    large = digest_of(tmp_path, Evaluation(), transform=Crop())
    small = digest_of(tmp_path, Evaluation(), transform=Crop(48, 48))
    assert large != small
    assert small == digest_of(tmp_path, Evaluation(transform=Crop(48, 48)))
    assert small == digest_of(tmp_path, Evaluation(transform=Crop(48, 48)), transform=Crop(48, 48))


def test_the_digest_depends_on_the_contents_of_a_file_not_its_path(tmp_path):
    one = digest_of(tmp_path, Evaluation(classes_file=Path("a.txt")), classes_file="sha")
    assert one == digest_of(tmp_path, Evaluation(classes_file=Path("b.txt")), classes_file="sha")
    assert one != digest_of(tmp_path, Evaluation(classes_file=Path("a.txt")), classes_file="other")


def test_harmless_settings_do_not_affect_the_digest():
    same = protocol_digest(Evaluation())
    assert same == protocol_digest(Evaluation(save_seconds=5.0))
    assert same == protocol_digest(Evaluation(diagnostics=Inner(rate=9.0)))


def test_resolved_settings_are_in_the_record(tmp_path):
    record = Record(tmp_path, kind="knn", config=Evaluation(), card=Card())
    record.resolve(transform=Crop(48, 48))
    record.write("done")
    content = read_record(tmp_path)
    assert content["resolved"] == {"transform": {"resize": 48, "crop": 48}}
    assert content["config"]["transform"] is None


def test_reading_records_does_not_import_pytorch():
    script = "import sys, msbreg.run.record; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0


def test_schema_1_is_readable_and_schema_2_requires_scores(tmp_path):
    record = Record(tmp_path, kind="knn", config=Settings(), card=Card())
    record.content["results"] = {}
    record.write("done")
    content = read_record(tmp_path)
    assert (content["schema"], content["scores"]) == (2, [])
    del content["scores"]
    (tmp_path / "record.json").write_text(json.dumps(content | {"schema": 1}))
    assert read_record(tmp_path)["schema"] == 1
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="of the wrong type: scores"):
        read_record(tmp_path)


def test_missing_and_mistyped_entries_of_a_record_are_named(tmp_path):
    (tmp_path / "record.json").write_text('{"schema": 1, "kind": "knn", "config": []}')
    with pytest.raises(UserError, match="wrong type: status, .*config"):
        read_record(tmp_path)


def test_a_folder_or_pipe_named_record_is_reported_without_blocking(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "record.json").mkdir()
    os.mkfifo(tmp_path / "b" / "record.json")
    (tmp_path / "c" / "record.json").symlink_to("nowhere")
    a, b, c = (found for _, found in find_records([tmp_path]))
    assert "a/record.json cannot be read (not a regular file)" in a
    assert "b/record.json cannot be read (not a regular file)" in b
    assert "c/record.json does not exist" in c


@dataclass(frozen=True)
class Earlier:
    k: int = 20


@dataclass(frozen=True)
class Later:
    """The same settings, and one that was added."""

    added: ClassVar[dict] = {"metric": "cosine"}
    k: int = 20
    metric: str = "cosine"


def test_an_added_setting_changes_the_digest_only_if_it_changes_the_protocol():
    assert protocol_digest(Later()) == protocol_digest(Earlier())
    assert protocol_digest(Later(metric="euclidean")) != protocol_digest(Earlier())
    assert protocol_digest(Later(), {"metric": "euclidean"}) != protocol_digest(Earlier())
