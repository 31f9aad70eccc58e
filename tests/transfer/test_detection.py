"""Whole runs of the script: started, interrupted, killed and continued."""

import json
import pickle
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from msbreg.backbones.resnet import build_backbone
from msbreg.checkpoints.load import save_checkpoint
from msbreg.run.errors import UserError, exit_codes
from msbreg.run.options import parse
from msbreg.run.record import protocol_digest, read_record
from tests.processes import Program, run_group
from tests.transfer.boxes_data import CARDS, make_voc, tiny_card
from tests.transfer.verdicts.recorded import check_outcomes
from transfer.detection import run
from transfer.detectors import detectron2_engine
from transfer.detectors import engine as choosing
from transfer.detectors.config.yaml_file import read_config
from transfer.detectors.detection_config import Config
from transfer.detectors.detector_training import read_checkpoint
from transfer.detectors.rcnn.model import RCNN
from transfer.scoring.predictions import load_predictions
from transfer.scoring.scores import score_from_dict

SCRIPT = Path(__file__).resolve().parents[2] / "transfer" / "detection.py"
needs_detectron2 = pytest.mark.skipif(
    not detectron2_engine.available(), reason="Detectron2 is not installed"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_voc(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def card(data, tmp_path_factory) -> Path:
    return tiny_card(tmp_path_factory.mktemp("cards"), data)


@pytest.fixture(scope="module")
def done(card, tmp_path_factory) -> Path:
    """The folder of a finished run; tests may read or copy it, but not change it."""
    output = tmp_path_factory.mktemp("runs") / "done"
    run(new_config(card, output))
    return output


def new_config(card: Path, output: Path, *overrides: str, **changes) -> Config:
    settings = {"checkpoint": "random", "engine": "torchvision", "device": "cpu"} | changes
    return Config(config=card, output=output, overrides=overrides, **settings)


def differing(first: Path, second: Path) -> list[str]:
    """Names of the tensors of two checkpoints that are not equal bit for bit."""
    one, other = (read_checkpoint(p / "checkpoint.pth")["model"] for p in (first, second))
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def curve(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_a_run_writes_a_record_predictions_tables_drawings_and_a_curve(
    card, done, tmp_path, capsys
):
    results = run(new_config(card, tmp_path / "run"))
    train, test = (read_config(card, ()).DATASETS[split][0] for split in ("TRAIN", "TEST"))
    assert capsys.readouterr().err.startswith(f"detection of random on {train} / {test}\n")
    record = read_record(tmp_path / "run")
    assert not differing(tmp_path / "run", done), "the same seed, the same weights"
    assert curve(tmp_path / "run") == curve(done)
    assert (record["kind"], record["status"], record["card"]) == ("detection", "done", "tiny")
    assert record["results"] == results
    assert {"box_AP", "box_AP50", "box_AP75", "iterations"} <= results.keys()
    assert record["selection"] == "fixed schedule (no selection)"
    assert record["engine"]["name"] == "torchvision"
    assert record["network"]["arch"] == "resnet18-narrow"
    assert record["network"]["loaded"]["taken"] == 90
    assert record["data"]["train"]["images"] == 10
    assert record["data"]["test"]["images"] == 4
    assert record["config"]["yaml"]["SOLVER.MAX_ITER"] == 8
    saved = load_predictions(tmp_path / "run" / "predictions.npz")
    assert (saved.extra["iteration"], saved.extra["digest"]) == (8, record["digest"])
    assert (saved.extra["engine"], saved.extra["network"]["source"]) == ("torchvision", "random")
    assert record["metric"] == "VOC 11-point AP"
    tables = json.loads((tmp_path / "run" / "per_class.json").read_text())
    assert [row["class"] for row in tables["box"]["classes"]] == ["blue", "red"]
    scores = {score.name: score for score in map(score_from_dict, record["scores"])}
    assert list(scores) == ["box AP", "box AP50", "box AP75"]
    check_outcomes(tmp_path / "run")
    ap50 = scores["box AP50"]
    assert (ap50.value, ap50.rules, ap50.n) == (results["box_AP50"], "VOC 11-point AP", 4)
    assert ap50.data.fingerprint == record["data"]["test"]["fingerprint"]
    assert list(ap50.per_class or ()) == ["blue", "red"]
    assert all((tmp_path / "run" / name).stat().st_size for name in record["drawings"])
    rows = curve(tmp_path / "run")
    assert [(row["iteration"], "scores" in row) for row in rows] == [
        (4, True),
        (8, False),
        (8, True),
    ]
    assert rows[-1]["scores"]["box_AP50"] == results["box_AP50"]


def test_different_seeds_give_different_weights(card, done, tmp_path):
    run(new_config(card, tmp_path / "run", seed=1))
    assert differing(tmp_path / "run", done)


def test_workers_and_checkpoints_do_not_change_the_weights(card, done, tmp_path):
    run(new_config(card, tmp_path / "run", "SOLVER.CHECKPOINT_PERIOD", "3", workers=2))
    assert not differing(tmp_path / "run", done)


def test_the_digest_changes_exactly_with_the_protocol(card, tmp_path):
    def digest(*overrides: str, **changes) -> str:
        config = new_config(card, tmp_path, *overrides, **changes)
        return protocol_digest(config.resolved(read_config(card, overrides), "torchvision"))

    same = [
        digest(),
        digest(workers=3, seed=4, name="mine", checkpoint="other.pth"),
        digest("SOLVER.CHECKPOINT_PERIOD", "3", "TEST.EVAL_PERIOD", "2", "SEED", "5"),
        digest("DATALOADER.NUM_WORKERS", "1"),
        digest(channels_last=True),
    ]
    other = [
        digest("SOLVER.BASE_LR", "0.01"),
        digest("MODEL.RPN.LOSS_WEIGHT", "0.2"),
        digest(amp="bf16"),
        digest(accumulate=2),
    ]
    assert len(set(same)) == 1
    assert len({*same, *other}) == 5


@pytest.fixture
def passes(monkeypatch) -> list[tuple[str, int, bool, bool]]:
    """Each forward pass of a detector: purpose, images, whether in bfloat16, and in channels_last."""
    seen = []
    forward = RCNN.forward

    def watched(model, samples):
        why = "step" if torch.is_grad_enabled() else "statistics" if model.training else "test"
        half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu").itemsize == 2
        kernels = [p for p in model.parameters() if p.dim() == 4 and p[0, 0].numel() > 1]
        last = [p.is_contiguous(memory_format=torch.channels_last) for p in kernels]
        assert len(set(last)) == 1
        seen.append((why, len(samples), half, last[0]))
        return forward(model, samples)

    monkeypatch.setattr(RCNN, "forward", watched)
    return seen


def test_bf16_applies_to_training_steps_only(card, done, tmp_path, passes):
    run(new_config(card, tmp_path / "run", amp="bf16"))
    assert set(passes) == {
        ("step", 2, True, False),
        ("statistics", 2, False, False),
        ("test", 1, False, False),
    }
    assert differing(tmp_path / "run", done)


def test_accumulation_applies_to_steps_and_to_precise_statistics(card, done, tmp_path, passes):
    run(new_config(card, tmp_path / "run", accumulate=2))
    assert set(passes) == {
        ("step", 1, False, False),
        ("statistics", 1, False, False),
        ("test", 1, False, False),
    }
    counts = [sum(why == each for each, *_ in passes) for why in ("step", "statistics")]
    assert counts == [2 * 8, 2 * 2 * 2], "as many images as without parts"
    assert differing(tmp_path / "run", done)


def test_channels_last_applies_to_all_forward_passes(card, tmp_path, passes):
    run(new_config(card, tmp_path / "run", channels_last=True))
    assert set(passes) == {
        ("step", 2, False, True),
        ("statistics", 2, False, True),
        ("test", 1, False, True),
    }


def test_bf16_accumulation_and_channels_last_can_be_combined(card, tmp_path, passes):
    run(new_config(card, tmp_path / "run", amp="bf16", accumulate=2, channels_last=True))
    assert set(passes) == {
        ("step", 1, True, True),
        ("statistics", 1, False, True),
        ("test", 1, False, True),
    }


@pytest.fixture(scope="module")
def long_run(data, tmp_path_factory) -> tuple[Path, Path]:
    """The card and the folder of an uninterrupted run of 16 iterations."""
    folder = tmp_path_factory.mktemp("long")
    card = tiny_card(folder, data, MAX_ITER=16, CHECKPOINT_PERIOD=1)
    run(new_config(card, folder / "whole"))
    return card, folder / "whole"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_ends_with_the_weights_of_an_uninterrupted_one(long_run, tmp_path, how):
    card, whole = long_run
    broken = tmp_path / "broken"
    arguments = (
        f"--config {card} --checkpoint random --engine torchvision --device cpu --output {broken}"
    )
    stopped = Program(SCRIPT, arguments.split(), cwd=tmp_path)
    checkpoint = broken / "checkpoint.pth"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.send_signal(how)
    code, _, message = stopped.wait()
    saved = read_checkpoint(checkpoint)
    assert saved["loop"]["evaluated_at"] < 16, "the run was over before it was stopped"
    if how == signal.SIGKILL:
        assert code == -signal.SIGKILL
        assert read_record(broken)["status"] == "running"
    else:
        assert code == 75, message
        assert "Run the same command to continue" in message
        assert "Traceback" not in message
        assert read_record(broken)["status"] == "interrupted"
    code, _, message = Program(SCRIPT, arguments.split(), cwd=tmp_path).wait()
    assert code == 0, message
    assert f"continuing after iteration {saved['iteration']}" in message
    assert not differing(whole, broken)
    assert curve(whole) == curve(broken)
    assert read_record(whole)["results"] == read_record(broken)["results"]


def test_an_unreadable_image_is_named_and_the_run_can_continue(tmp_path):
    data = make_voc(tmp_path / "own")
    card = tiny_card(tmp_path, data, CHECKPOINT_PERIOD=1)
    run(new_config(card, tmp_path / "whole"))
    image = data / "VOC2007" / "JPEGImages" / "000002.jpg"
    kept = image.read_bytes()
    image.write_bytes(kept[: len(kept) // 2])
    with pytest.raises(UserError, match=r"000002.jpg cannot be decoded(.|\n)*Fix or replace"):
        run(new_config(card, tmp_path / "run"))
    assert read_record(tmp_path / "run")["status"] == "failed"
    image.write_bytes(kept)
    run(new_config(card, tmp_path / "run"))
    assert not differing(tmp_path / "whole", tmp_path / "run")


def test_an_unfinished_run_is_not_continued_with_other_settings(card, done, tmp_path):
    output = shutil.copytree(done, tmp_path / "run")
    record = read_record(output)
    unfinished = record | {
        "status": "running",
        "results": {},
        "config": record["config"] | {"output": str(output)},
    }
    (output / "record.json").write_text(json.dumps(unfinished))
    with pytest.raises(UserError, match="unfinished run with other settings: yaml.SOLVER.BASE_LR"):
        run(new_config(card, output, "SOLVER.BASE_LR", "0.5"))
    harmless = ("DATALOADER.NUM_WORKERS", "1", "SOLVER.CHECKPOINT_PERIOD", "5")
    run(new_config(card, output, *harmless))  # killed between its evaluation and its record
    assert read_record(output)["results"] == record["results"]


def test_a_finished_run_is_not_overwritten(card, done):
    before = (done / "checkpoint.pth").read_bytes()
    with pytest.raises(UserError, match="contains a completed run.\nGive another --output"):
        run(new_config(card, done))
    assert run(new_config(card, done, finished="skip")) == {}
    with pytest.raises(UserError, match=r"with other settings \(yaml.SOLVER.GAMMA = 0.5 here\)"):
        run(new_config(card, done, "SOLVER.GAMMA", "0.5", finished="skip"))
    assert (done / "checkpoint.pth").read_bytes() == before


def test_trials_report_mean_and_spread_and_finished_ones_are_skipped(card, tmp_path):
    output = tmp_path / "runs"
    summary = run(new_config(card, output, trials=2))
    of_each = [read_record(output / f"trial-{seed}")["results"] for seed in (0, 1)]
    values = [results["box_AP50"] for results in of_each]
    assert summary["box_AP50"]["values"] == values
    assert summary["box_AP50"]["mean"] == pytest.approx(sum(values) / 2)
    assert summary["box_AP50"]["std"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    written = json.loads((output / "trials.json").read_text())
    assert written["results"] == summary
    checkpoints = [output / f"trial-{seed}" / "checkpoint.pth" for seed in (0, 1)]
    times = [path.stat().st_mtime_ns for path in checkpoints]
    assert run(new_config(card, output, trials=2)) == summary
    assert times == [path.stat().st_mtime_ns for path in checkpoints]


def test_a_trained_detector_is_evaluated_without_training(card, done, tmp_path):
    trained = read_record(done)["results"]
    checkpoint = str(done / "checkpoint.pth")
    again = run(new_config(card, tmp_path / "again", checkpoint=checkpoint, eval_only=True))
    assert again == {key: trained[key] for key in again}
    network = read_record(tmp_path / "again")["network"]
    assert (network["arch"], network["iteration"]) == ("resnet18-narrow", 8)
    with pytest.raises(UserError, match="--eval-only needs a whole detector; random is a backbone"):
        run(new_config(card, tmp_path / "no", eval_only=True))


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
def test_a_detector_saved_by_detectron2_is_evaluated(card, done, tmp_path, suffix):
    model = read_checkpoint(done / "checkpoint.pth")["model"]
    path = tmp_path / f"model_final{suffix}"
    if suffix == ".pth":
        torch.save({"model": model, "iteration": 7}, path)
    else:
        arrays = {name: value.numpy() for name, value in model.items()}
        path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}))
    results = run(new_config(card, tmp_path / "run", checkpoint=str(path), eval_only=True))
    assert results == {name: read_record(done)["results"][name] for name in results}
    network = read_record(tmp_path / "run")["network"]
    assert (network["name"], network["family"]) == ("model_final", "detector of Detectron2")


def pretrained(path: Path, arch: str) -> str:
    """A checkpoint as pretrain/run.py writes it."""
    backbone = build_backbone(arch, seed=5).state_dict()
    config = {"method": "msbreg", "views": 2, "epochs": 1, "batch_size": 4, "seed": 0}
    state = {f"backbone.{key}": value for key, value in backbone.items()}
    networks = {"online": state, "target": state}
    about = {"arch": arch, "image_size": 32, "config": config, "step": 8, "steps": 8}
    save_checkpoint(path, about | networks)
    return str(path)


def test_a_backbone_is_loaded_into_the_detector(card, tmp_path):
    checkpoint = pretrained(tmp_path / "plain.pth", "resnet18-narrow")
    still = ("SOLVER.BASE_LR", "1e-12", "MODEL.WEIGHTS", checkpoint)
    run(new_config(card, tmp_path / "run", *still, checkpoint=None))
    model = read_checkpoint(tmp_path / "run" / "checkpoint.pth")["model"]
    wanted = build_backbone("resnet18-narrow", seed=5).layer3[0].conv1.weight
    assert torch.allclose(model["backbone.res4.0.conv1.weight"], wanted, atol=1e-6)
    network = read_record(tmp_path / "run")["network"]
    assert (network["family"], network["name"]) == ("msbreg", "msbreg resnet18-narrow")


def test_auto_is_resolved_and_recorded(card, tmp_path, monkeypatch):
    monkeypatch.setattr(choosing.detectron2_engine, "available", lambda: False)
    run(new_config(card, tmp_path / "run", engine="auto"))
    record = read_record(tmp_path / "run")
    assert record["config"]["engine"] == "torchvision"
    assert record["engine"]["asked"] == "auto"
    with pytest.raises(UserError, match="Detectron2 is not installed"):
        run(new_config(card, tmp_path / "other", engine="detectron2"))


@needs_detectron2
def test_both_engines_train_bit_for_bit_equal_weights_and_predict_the_same(card, done, tmp_path):
    theirs = run(new_config(card, tmp_path / "run", engine="auto"))
    record = read_record(tmp_path / "run")
    assert record["engine"]["name"] == "detectron2"
    assert not differing(done, tmp_path / "run")
    assert theirs == read_record(done)["results"]
    assert record["digest"] != read_record(done)["digest"], "tables mark scores of two engines"


@pytest.mark.parametrize(
    "card_name", sorted(p.stem for p in CARDS.glob("*.yaml") if "DATASETS" in p.read_text())
)
def test_a_card_reads_the_same_with_and_without_detectron2(card_name):
    path = CARDS / f"{card_name}.yaml"
    ours = read_config(path)
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Source: ") for line in head)
    assert any(f"--config configs/{card_name}.yaml" in line for line in head)
    assert ours.MODEL.RESNETS.STRIDE_IN_1X1 is False
    if detectron2_engine.available():
        detectron2_engine.version()
        from detectron2.config import get_cfg

        theirs = get_cfg()
        theirs.merge_from_file(str(path))
        assert theirs.SOLVER.BASE_LR == ours.SOLVER.BASE_LR
        assert list(theirs.INPUT.MIN_SIZE_TRAIN) == list(ours.INPUT.MIN_SIZE_TRAIN)


def test_two_processes_train_one_detector_with_synchronized_batch_norm(card, tmp_path):
    arguments = (
        f"--config {card} --checkpoint random --engine torchvision --device cpu --output run"
    )
    for code, _, message in run_group(SCRIPT, *arguments.split(), cwd=tmp_path):
        assert code == 0, message
    record = read_record(tmp_path / "run")
    assert record["processes"] == 2
    check_outcomes(tmp_path / "run")
    assert not any("BatchNorm" in warning for warning in record["warnings"])
    checkpoint = str(tmp_path / "run" / "checkpoint.pth")
    alone = run(new_config(card, tmp_path / "alone", checkpoint=checkpoint, eval_only=True))
    assert alone == {key: record["results"][key] for key in alone}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config no.yaml", "no such file: no.yaml"),
        ("--config .", "error: a folder, expected a yaml file: ."),
        (
            "--config CARD DATASETS.TRAIN voc:a:b",
            "expected tuple, such as ('voc_2007_trainval',)",
        ),
        (
            "--config CARD SOLVER.MAXITER 5",
            "SOLVER.MAXITER is not a Detectron2 setting; did you mean",
        ),
        ("--config CARD SOLVER.MAX_ITER", "SOLVER.MAX_ITER has no VALUE"),
        ("--config CARD SOLVER.MAX_ITER=5", "'SOLVER.MAX_ITER=5' is not a KEY"),
        ("--config CARD SOLVER.MAX_ITER many", "SOLVER.MAX_ITER is 'many'"),
        ("--config CARD SOLVER.MAX_ITER 5 --seed 1", "--seed must come before the KEY VALUE pairs"),
        ("--config CARD solver.max_iter 5", "'solver.max_iter' is not a KEY"),
        ("--config CARD --nonsense 3", "nonsense"),
        ("--config CARD --engine tensorflow", "engine"),
        ("--config CARD --trials 2 --seed 1", "--trials uses the seeds 0, 1"),
        ("--config CARD --device cuda:99", "requires GPU 99"),
        ("--config CARD --output /proc/nowhere", "cannot be written"),
        ("--checkpoint random", "config"),
    ],
)
def test_a_wrong_command_line_gives_one_message(
    card, tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended, exit_codes():
        run(*parse(Config, words.replace("CARD", str(card)).split(), pairs="overrides"))
    output = capsys.readouterr().err
    assert ended.value.code == 2, output
    assert message in output
    assert "Traceback" not in output
    assert not list(tmp_path.iterdir()), "nothing is written before the command line is parsed"


def test_the_script_reports_errors_and_prints_help(tmp_path):
    code, _, message = Program(SCRIPT, ["--config", "no.yaml"], cwd=tmp_path).wait()
    assert (code, message) == (2, "error: no such file: no.yaml\n")
    code, output, _ = Program(SCRIPT, ["--help"], cwd=tmp_path).wait()
    assert code == 0
    assert "Override settings of the yaml; must follow all options" in output
    assert "--eval-only" in output
    assert "--overrides" not in output


@pytest.mark.parametrize(
    ("overrides", "changes", "message"),
    [
        ("", {"checkpoint": None}, "no initial weights: give --checkpoint"),
        ("", {"checkpoint": "no.pth"}, "no.pth"),
        ("", {"checkpoint": "detectron2://R-50.pkl"}, "a URL; download the file"),
        ("MODEL.ROI_HEADS.NUM_CLASSES 7", {}, "NUM_CLASSES is 7, but .* has 2 classes"),
        ("DATASETS.TEST ('voc_2007_test',)", {}, "voc_2007_test"),
        ("DATASETS.TRAIN ()", {}, "DATASETS.TRAIN is empty"),
        ("SOLVER.AMP.ENABLED True", {}, "--amp bf16 for bfloat16"),
        ("SOLVER.STEPS (7,3)", {}, "STEPS is .* ascending order"),
        ("MODEL.MASK_ON True", {}, "objects without a mask"),
        ("MODEL.RESNETS.DEPTH 101", {}, "no backbone has depth 101, width 32"),
        ("", {"accumulate": 3}, "--accumulate 3 does not divide the 2 images"),
        ("TEST.AUG.ENABLED True", {}, "TEST.AUG.ENABLED is True"),
    ],
)
def test_impossible_settings_give_one_error(card, tmp_path, overrides, changes, message):
    with pytest.raises(UserError, match=message):
        run(new_config(card, tmp_path / "run", *overrides.split(), **changes))


@pytest.mark.parametrize(
    ("arch", "pairs", "message"),
    [
        ("resnet18-tiny", (), "Pre-train with --arch resnet18-narrow"),
        ("resnet18", (), 'Give: MODEL.RESNETS.STEM_OUT_CHANNELS "64" MODEL.RESNETS.RES2_OUT'),
        ("resnet18-narrow", ("INPUT.FORMAT", "BGR"), 'Give: INPUT.FORMAT "RGB"'),
        (
            "resnet18-narrow",
            ("MODEL.PIXEL_STD", "[1.0,1.0,1.0]"),
            r'Give: MODEL.PIXEL_STD "\[58.395, 57.12, 57.375\]"',
        ),
    ],
)
def test_a_backbone_that_differs_from_the_yaml_is_rejected(card, tmp_path, arch, pairs, message):
    checkpoint = pretrained(tmp_path / "plain.pth", arch)
    with pytest.raises(UserError, match=message):
        run(new_config(card, tmp_path / "run", *pairs, checkpoint=checkpoint))


def test_the_folder_of_another_run_is_not_overwritten(card, done, tmp_path):
    output = shutil.copytree(done, tmp_path / "run")
    record = read_record(output)
    with pytest.raises(UserError, match="contains a single run"):
        run(new_config(card, output, trials=2))
    (output / "record.json").write_text(json.dumps(record | {"kind": "knn"}))
    with pytest.raises(UserError, match="contains a run of knn, but this is detection"):
        run(new_config(card, output))
    (output / "record.json").unlink()
    with pytest.raises(UserError, match="record.json is missing from that folder"):
        run(new_config(card, output))
