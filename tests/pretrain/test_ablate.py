"""Ablations of two tiny cells: run, stopped, killed and continued, and wrong arguments."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from msbreg.run.config import Card
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.options import parse
from msbreg.run.record import read_record
from pretrain.ablate import Config, run
from pretrain.recipe import AugmentSettings, DiagnosticsSettings, HeadSettings, OptimizerSettings
from tests.processes import Program

SCRIPT = Path(__file__).resolve().parents[2] / "pretrain" / "ablate.py"
WORDS = (
    "--table 8 --rows 1 k2-b --seeds 0 --arch resnet18-tiny --epochs 3 --batch_size 4 --device cpu "
    "--head.hidden 16 --head.out 8 --augment.size 16 --diagnostics.images 8 --diagnostics.bank 16 "
    "--diagnostics.queries 8 --optimizer.warmup_epochs 0.5 --save_seconds 0.001"
)


def small(data: Path, output: Path, **changes) -> Config:
    """BYOL without and with the Brownian loss, on a few images of 16 pixels."""
    settings: dict[str, Any] = {
        "table": "8",
        "rows": ("k2", "k2-b"),
        "seeds": (0,),
        "data": str(data),
        "output": output,
        "arch": "resnet18-tiny",
        "epochs": 1,
        "batch_size": 4,
        "device": "cpu",
        "head": HeadSettings(hidden=16, out=8),
        "augment": AugmentSettings(size=16),
        "diagnostics": DiagnosticsSettings(images=8, bank=16, queries=8),
        "optimizer": OptimizerSettings(warmup_epochs=0.5),
    }
    return Config(**settings | changes)


def table(output: Path) -> dict[str, Any]:
    return json.loads((output / "table.json").read_text())


def rows(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in content["rows"]}


@pytest.fixture
def data(make_folder) -> Path:
    return make_folder(train=8, val=4)


def test_a_table_has_the_scores_of_its_cells_beside_the_papers(data, tmp_path, capsys):
    content = run(small(data, tmp_path / "out", seeds=(0, 1)), Card("test", {}))
    assert content == table(tmp_path / "out")
    found = rows(content)
    assert len(found) == 12  # those that were not run, too
    score = found["k2-b"]["scores"]["monitor"]
    records = [read_record(tmp_path / "out" / "k2-b" / f"seed-{seed}") for seed in (0, 1)]
    values = [record["results"]["knn_top1"] for record in records]
    assert list(score["seeds"].values()) == values
    assert score["mean"] == pytest.approx(sum(values) / 2)
    assert score["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert score["data"] == f"{data}, held-out training images"
    paper = {"score": "linear top-1", "data": "ImageNet-100, ResNet-18", "value": 72.84}
    assert found["k2-b"]["paper"] == paper
    assert found["k8"]["scores"]["monitor"]["mean"] is None
    assert [r["config"]["seed"] for r in records] == [0, 1]
    assert all(r["config"]["add"] == ["brownian"] for r in records)
    shown = (tmp_path / "out" / "table.md").read_text()
    assert shown in capsys.readouterr().out
    (heading,) = [line for line in shown.splitlines() if line.startswith("| row")]
    names = [cell.strip() for cell in heading.strip("|").split("|")]
    assert names[:5] == ["row", "method", "centroid", "Brownian", "singular value"]
    assert names[5:] == [
        f"ours: kNN monitor, {data}, held-out training images",
        "paper: linear top-1, ImageNet-100, ResNet-18",
    ]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_table_continues_in_the_cell_where_it_stopped(data, tmp_path, capsys, how):
    output = tmp_path / "out"
    words = [*WORDS.split(), "--data", data, "--output", output]
    stopped = Program(SCRIPT, words, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (output / "k2-b/seed-0/checkpoint.pth").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.send_signal(how)
    code, _, message = stopped.wait()
    assert code == (75 if how == signal.SIGTERM else -signal.SIGKILL), message
    assert "Traceback" not in message
    assert read_record(output / "k2-b/seed-0")["status"] != "done"
    before = (output / "k2/seed-0/record.json").read_bytes()
    assert rows(table(output))["k2"]["scores"]["monitor"]["seeds"].keys() == {"0"}
    run(*parse(Config, list(map(str, words))))
    shown = capsys.readouterr()
    assert "continuing from step" in shown.err
    assert (output / "table.md").read_text() in shown.out
    assert (output / "k2/seed-0/record.json").read_bytes() == before
    assert rows(table(output))["k2-b"]["scores"]["monitor"]["seeds"].keys() == {"0"}


def test_two_processes_of_torchrun_run_several_cells(data, tmp_path):
    """With the store of torchrun's agent, which outlives the process group of a cell."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": "2"}
    words = [*WORDS.split(), "--epochs", "1", "--data", data, "--output", tmp_path / "out"]
    programs = [
        Program(SCRIPT, words, environment=group | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    ends = [program.wait() for program in programs]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert [out.count("# Table 8") for _, out, _ in ends] == [1, 0]
    found = rows(table(tmp_path / "out"))
    assert all(found[name]["scores"]["monitor"]["seeds"] for name in ("k2", "k2-b"))
    assert read_record(tmp_path / "out/k2-b/seed-0")["processes"] == 2


def test_test_scores_come_from_the_programs_of_transfer(data, tmp_path, monkeypatch):
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    card = tmp_path / "few.yaml"
    card.write_text("k: [5]\ntransform: {resize: 16, crop: 16}\n")
    run(small(data, tmp_path / "out", rows=("k2",)))
    trained = (tmp_path / "out/k2/seed-0/record.json").read_bytes()
    config = small(data, tmp_path / "out", rows=("k2",), evaluate=("knn",), knn_card=card)
    score = rows(run(config))["k2"]["scores"]["knn"]
    assert (tmp_path / "out/k2/seed-0/record.json").read_bytes() == trained
    record = read_record(tmp_path / "out/k2/seed-0/knn")
    assert record["card"] == "few"
    assert score["seeds"] == {"0": record["results"]["top1_5nn"]}
    assert score["score"] == "5-NN top-1"
    assert score["data"].endswith(" val")
    card.write_text("nonsense: 3\n")  # not read again: the score is there
    assert rows(run(config))["k2"]["scores"]["knn"] == score
    other = tmp_path / "other.yaml"
    other.write_text("k: [3]\n")
    with pytest.raises(UserError, match="knn_card = '.*other.yaml' here"):
        small(data, tmp_path / "out", evaluate=("knn",), knn_card=other).check_inputs()


def test_a_failed_cell_does_not_end_the_table(data, tmp_path):
    """16 images are too few for four times the batch of the other rows."""
    names = ("byol-ln-1024-0", "msbreg-ln-256-0.005")
    config = small(data, tmp_path / "out", table="6", rows=names, views=2, batch_size=8)
    with pytest.raises(RunFailed, match="1 of 2 cells failed"):
        run(config)
    found = rows(table(tmp_path / "out"))
    assert "there are only 16 images" in found[names[0]]["failures"]["0"]
    assert found[names[1]]["scores"]["monitor"]["mean"] is not None
    assert "failed: seed 0" in (tmp_path / "out" / "table.md").read_text()


def test_an_output_folder_holds_one_table_of_one_recipe(data, tmp_path):
    output = tmp_path / "out"
    run(small(data, output, rows=("k2",)))
    for changes, words in (
        ({"table": "11", "rows": ("1",)}, "table = '11' here"),
        ({"lambda_b": 0.25}, "lambda_b = 0.25 here"),
    ):
        with pytest.raises(UserError, match=words):
            run(small(data, output, **changes))
    more = small(data, output, rows=("k2-s",), seeds=(3,), diagnostics=DiagnosticsSettings(every=2))
    more.check_inputs()  # other rows, seeds and diagnostics may follow


def test_rows_that_do_not_fit_the_recipe_can_be_left_out(data, tmp_path):
    """A warm-up of two epochs is too long for a third of three."""
    warmup = OptimizerSettings(warmup_epochs=2)
    with pytest.raises(UserError, match="row byol-100: optimizer.warmup_epochs"):
        small(data, tmp_path / "out", table="7", rows=(), epochs=3, optimizer=warmup)
    names = ("byol-multicrop-300",)
    run(small(data, tmp_path / "out", table="7", rows=names, epochs=3, optimizer=warmup))
    found = rows(table(tmp_path / "out"))
    assert found[names[0]]["scores"]["monitor"]["mean"] is not None
    assert (
        read_record(tmp_path / "out" / names[0] / "seed-0")["config"]["augment"]["local_views"] == 6
    )


def test_two_tables_cannot_be_written_to_the_same_folder(data, tmp_path):
    import fcntl

    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is writing to"):
            run(small(data, tmp_path / "out"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--table 9", "--table is '9'; expected 6 or 7 or 8 or 11"),
        ("--rows k4-bs", "'k4-bs' is unknown; did you mean k4-b-s?"),
        ("--rows 13", "Expected numbers from 1 to 12"),
        ("--seeds 0 0", "expected different integers"),
        ("--seed 3", "--seed is unknown; did you mean --seeds?"),
        ("--method byol --views 2", "expected a base recipe of msbreg"),
        ("--evaluate svm", "--evaluate is 'svm'; expected one or more of monitor, knn, linear"),
        ("--evaluate knn knn", "at most once"),
        (
            "--table 7 --epochs 3 --optimizer.warmup_epochs 2",
            "row byol-100: optimizer.warmup_epochs",
        ),
    ],
)
def test_wrong_arguments_give_one_message(words, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        parse(Config, words.split())


def test_options_that_the_table_sets_itself_are_refused(data, tmp_path):
    words = ["--data", str(data), "--output", str(tmp_path / "out"), "--views", "3"]
    with pytest.raises(UserError, match="--views is 3, but the rows of Table 8 set it"):
        run(*parse(Config, words))
    assert not (tmp_path / "out").exists()


def test_cards_of_transfer_are_checked_before_anything_runs(data, tmp_path):
    with pytest.raises(UserError, match="no.yaml does not exist"):
        small(data, tmp_path, knn_card=tmp_path / "no.yaml").check_inputs()


def test_test_scores_are_refused_under_torchrun(data, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(UserError, match="do not run under torchrun"):
        small(data, tmp_path, evaluate=("knn",)).check_inputs()
    small(data, tmp_path).check_inputs()
