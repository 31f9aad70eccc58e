"""Runs are sent once, to wandb without a server and to MLflow's store of files (if they are installed)."""

import json
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msbreg.run.errors import UserError
from tests.transfer.report.records import network, score, write_pretraining, write_scores
from tools import publish

WANDB = "wandb is not installed: pip install -e '.[wandb]'"
MLFLOW = "MLflow is not installed: pip install -e '.[mlflow]'"
# The libraries' own deprecated calls are not this suite's.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two completed runs and a failed one."""
    folder = tmp_path / "runs"
    config = {"steps": 3, "transform": {"resize": 256}}
    write_scores(folder / "a", network(), score(71.5, rules="s, exp(s / 0.07)"), config=config)
    write_pretraining(folder / "b", epochs=2)
    write_scores(folder / "c", network(), status="failed")
    return folder


def lines(capsys) -> list[str]:
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


# ---- Options


def test_invalid_options_are_rejected(tmp_path, capsys):
    with pytest.raises(UserError, match="does not exist"):
        publish.read_options([str(tmp_path / "none"), "--to", "wandb"])
    with pytest.raises(SystemExit):
        publish.read_options([str(tmp_path), "--to", "csv"])
    with pytest.raises(SystemExit):
        publish.read_options([str(tmp_path)])
    assert "--to" in capsys.readouterr().err


@pytest.mark.parametrize("service", publish.SERVICES)
def test_a_missing_library_is_an_error_that_names_the_extra(tmp_path, monkeypatch, service):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"{service} is not installed.*\.\[{service}\]"):
        publish.read_options([str(tmp_path), "--to", service])


# ---- Weights & Biases


@pytest.fixture
def wandb(tmp_path, monkeypatch) -> Any:
    for name in ("DIR", "CACHE_DIR", "DATA_DIR", "CONFIG_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / name))
    monkeypatch.setenv("WANDB_MODE", "offline")
    module = pytest.importorskip("wandb", reason=WANDB)
    yield module
    module.teardown()


def stored(folder: Path) -> dict[str, list[Any]]:
    """The records in the log of an offline run, by their type."""
    from wandb.proto import wandb_internal_pb2

    (file,) = folder.glob("*.wandb")
    found: dict[str, list[Any]] = {}
    for data in _of_log(file.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        found.setdefault(kind, []).append(getattr(record, kind))
    return found


def _of_log(raw: bytes) -> Iterator[bytes]:
    """LevelDB's log format after a header of 7 bytes: blocks of 32 KiB, parts with checksum and length."""
    at, whole = 7, b""
    while at + 7 <= len(raw):
        if 2**15 - at % 2**15 < 7:
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", raw[at : at + 7])
        whole += raw[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part
            yield whole
            whole = b""


def test_wandb_gets_each_run_once(runs, wandb, tmp_path, capsys):
    command = [str(runs), "--to", "wandb", "--project", "backbones"]
    publish.main(command)
    assert lines(capsys) == ["sent", "sent", "left", "2"]
    publish.main(command)
    assert lines(capsys) == ["sent", "sent", "left", "0"]  # "sent before"
    folders = sorted((tmp_path / "DIR").glob("wandb/offline-run-*"))
    assert len(folders) == 2

    found = {stored(folder)["run"][0].run_id: stored(folder) for folder in folders}
    marks = json.loads((runs / "a" / "sent_to_wandb.json").read_text())
    one = found[marks["backbones"]]
    about = one["run"][0]
    assert (about.project, about.job_type) == ("backbones", "colorization")
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert config["transform.resize"] == 256
    summary = {item.key: item.value_json for part in one["summary"] for item in part.update}
    assert float(summary["pets test/top-1 [s, exp(s / 0.07)]"]) == 71.5
    (artifact,) = one["artifact"]
    assert [entry.path for entry in artifact.manifest.contents] == ["record.json"]

    marks = json.loads((runs / "b" / "sent_to_wandb.json").read_text())
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in found[marks["backbones"]]["history"]
    ]
    assert [row["_step"] for row in history] == [0, 10, 20]
    assert [row["knn_top1"] for row in history] == [20.0, 21.0, 22.0]


def test_wandb_gets_a_run_again_after_it_was_repeated_and_in_another_project(runs, wandb, capsys):
    publish.main([str(runs / "a"), "--to", "wandb"])
    publish.main([str(runs / "a"), "--to", "wandb", "--project", "other"])
    record = json.loads((runs / "a" / "record.json").read_text())
    (runs / "a" / "record.json").write_text(json.dumps(record | {"seconds": 61.0}))
    publish.main([str(runs / "a"), "--to", "wandb"])
    out = capsys.readouterr().out
    assert out.count("1 sent, 0 sent before") == 3


# ---- MLflow


@pytest.fixture
def mlflow(tmp_path, monkeypatch) -> Any:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return pytest.importorskip("mlflow", reason=MLFLOW)


def test_mlflow_gets_each_run_once(runs, mlflow, tmp_path, capsys):
    command = [str(runs), "--to", "mlflow", "--project", "backbones"]
    publish.main(command)
    assert lines(capsys) == ["sent", "sent", "left", "2"]
    shutil.copytree(runs / "a", runs / "copy")
    publish.main(command)
    assert capsys.readouterr().out.endswith("0 sent, 3 sent before, 1 left out\n")

    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("backbones").experiment_id
    by_kind = {run.data.tags["msbreg.kind"]: run for run in client.search_runs([experiment])}
    one, other = by_kind["colorization"], by_kind["pretrain"]
    assert one.data.params["transform.resize"] == "256"
    (name,) = one.data.metrics
    assert name.startswith("pets test/top-1 _s_ exp_s / 0.07__ ")
    assert one.data.metrics[name] == 71.5
    assert [file.path for file in client.list_artifacts(one.info.run_id)] == ["record.json"]
    history = client.get_metric_history(other.info.run_id, "curve/knn_top1")
    assert [(m.step, m.value) for m in history] == [(0, 20.0), (10, 21.0), (20, 22.0)]


def test_mlflow_gets_a_run_whole_whose_sending_was_interrupted(runs, mlflow, capsys):
    from tools.sinks.mlflow_sink import MlflowSink

    sink = MlflowSink("msbreg")
    (run,) = publish.finished_runs([runs / "a"])
    broken = sink.client.create_run(sink.experiment, tags={"msbreg.id": run.id}).info.run_id
    assert not sink.has(run)
    sent = sink.send(run)
    assert sink.has(run)
    assert [r.info.run_id for r in sink.client.search_runs([sink.experiment])] == [sent] != [broken]


def test_a_store_that_cannot_be_used_is_a_user_error(runs, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://store")
    with pytest.raises(UserError, match="MLflow: "):
        publish.open_sink("mlflow", "msbreg")


def test_names_that_mlflow_refuses_are_changed_and_stay_different(mlflow):
    from tools.sinks.mlflow_sink import stored_name

    assert stored_name("transform.resize") == "transform.resize"
    names = ["a, b", "a; b", "x" * 300, "x" * 301]
    stored_names = [stored_name(name) for name in names]
    assert len(set(stored_names)) == 4
    assert max(map(len, stored_names)) <= 250
