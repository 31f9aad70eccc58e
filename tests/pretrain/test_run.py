"""Complete runs of the script: started, stopped, killed and resumed as by a user."""

import functools
import json
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from msbreg.checkpoints.load import load_backbone, load_checkpoint
from msbreg.data.folder import list_images
from msbreg.data.images import balanced_subset, held_out_tail
from msbreg.data.sources import open_source
from msbreg.run.config import Card
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.options import parse
from msbreg.run.record import is_as_before, read_record
from pretrain.recipe import (
    AugmentSettings,
    Config,
    DiagnosticsSettings,
    HeadSettings,
    OptimizerSettings,
    TargetSettings,
)
from pretrain.run import run
from pretrain.view_batches import Order
from tests.conftest import write_folder
from tests.msbreg.data.classification.published_trees import stl10_tree
from tests.processes import Program, run_group, run_pair

SCRIPT = Path(__file__).resolve().parents[2] / "pretrain" / "run.py"


def small(data: Path, output: Path, **changes) -> Config:
    """A run of a few steps on 16-pixel images."""
    settings = {
        "data": str(data),
        "arch": "resnet18-tiny",  # the published stem leaves maps of one pixel at this size
        "output": output,
        "epochs": 2,
        "batch_size": 4,
        "views": 2,
        "workers": 0,
        "device": "cpu",
        "head": HeadSettings(hidden=16, out=8),
        "augment": AugmentSettings(size=16),
        "diagnostics": DiagnosticsSettings(images=8, bank=16, queries=8),
        "optimizer": OptimizerSettings(warmup_epochs=0.5),
    }
    return Config(**settings | changes)


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    """The same run as options of the script."""
    flags = (
        f"--data {data} --output {output} --arch resnet18-tiny "
        "--epochs 2 --batch_size 4 --views 2 --workers 0 "
        "--device cpu --head.hidden 16 --head.out 8 --augment.size 16 --diagnostics.images 8 "
        "--diagnostics.bank 16 --diagnostics.queries 8 --optimizer.warmup_epochs 0.5"
    )
    return [*flags.split(), *more]


def weights(output: Path) -> dict[str, torch.Tensor]:
    content = load_checkpoint(output / "checkpoint.pth")
    parts = ("online", "target", "memory")
    return {f"{part}.{k}": v for part in parts for k, v in content.get(part, {}).items()}


def assert_bit_equal(first: Path, second: Path) -> None:
    one, other = weights(first), weights(second)
    assert one.keys() == other.keys()
    different = [name for name in one if not torch.equal(one[name], other[name])]
    assert not different


def assert_equal_training_states(first: Path, second: Path) -> None:
    """Compare the optimizer and the generators bit for bit."""
    one, other = (load_checkpoint(folder / "checkpoint.pth") for folder in (first, second))
    for part in ("optimizer", "loop"):
        assert flattened(one[part]).keys() == flattened(other[part]).keys()
        for name, value in flattened(one[part]).items():
            same = flattened(other[part])[name]
            if "images_per_second" not in name:
                assert (
                    torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same
                )


def flattened(value, name: str = "") -> dict[str, object]:
    """All values in nested dictionaries and lists by their dotted path."""
    if not isinstance(value, dict | list | tuple):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for key, inside in items for k, v in flattened(inside, f"{name}.{key}").items()}


@pytest.fixture
def data(make_folder) -> Path:
    return make_folder(train=8, val=4)


def test_two_runs_with_the_same_seed_end_with_the_same_weights_and_generators(data, tmp_path):
    ends = []
    for name in ("one", "other"):
        run(small(data, tmp_path / name, epochs=1), Card("test", {}))
        content = load_checkpoint(tmp_path / name / "checkpoint.pth")
        ends.append(content["loop"]["generators"][0])
        torch.rand(1), np.random.rand(1), random.random()  # noqa: NPY002 - must not affect the next run
    assert_bit_equal(tmp_path / "one", tmp_path / "other")
    one, other = ends
    assert torch.equal(one["torch"], other["torch"])
    assert torch.equal(one["numpy"][1], other["numpy"][1])
    assert one["python"] == other["python"]


def test_a_run_writes_a_checkpoint_a_record_and_a_curve(data, tmp_path):
    config = small(data, tmp_path / "run")
    results = run(config, Card("test", {}))
    record = read_record(tmp_path / "run")
    assert record["status"] == "done"
    assert record["results"] == results
    assert record["data"]["images"] == 16
    assert results["steps"] == 8
    assert results["views_seen"] == 64
    curve = [
        json.loads(line) for line in (tmp_path / "run" / "curve.jsonl").read_text().splitlines()
    ]
    assert [row["epoch"] for row in curve] == [0, 1, 2]
    wanted = {"std", "effective_rank", "spectrum", "alignment", "uniformity", "knn_top1"}
    assert all(wanted <= row.keys() for row in curve)
    assert {"centroid", "singular_value", "brownian", "total"} <= curve[1].keys()
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))
    backbone, provenance = load_backbone(tmp_path / "run" / "checkpoint.pth")
    assert provenance.details["method"] == "msbreg"
    assert backbone(torch.zeros(1, 3, 16, 16))["c5"].shape[1] == 256


def test_the_network_that_the_authors_of_dino_evaluate_is_loaded_by_default(data, tmp_path):
    run(*parse(Config, arguments(data, tmp_path / "run", *LONG["dino"].split())))
    content = load_checkpoint(tmp_path / "run" / "checkpoint.pth")
    backbone, provenance = load_backbone(tmp_path / "run" / "checkpoint.pth")
    assert provenance.encoder == "target backbone"
    loaded = backbone.state_dict()["conv1.weight"]
    assert torch.equal(loaded, content["target"]["backbone.conv1.weight"])
    assert not torch.equal(loaded, content["online"]["backbone.conv1.weight"])


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "byol"},
        {"head_norm": "ln"},
        {"precision": "bf16"},
        {"target": TargetSettings(views="independent", bias_correction="adam")},
    ],
    ids=str,
)
def test_the_same_seed_gives_the_same_weights(data, tmp_path, changes):
    for name in ("a", "b"):
        run(small(data, tmp_path / name, epochs=1, **changes))
    assert_bit_equal(tmp_path / "a", tmp_path / "b")


def test_another_seed_gives_other_weights(data, tmp_path):
    for seed in (0, 1):
        run(small(data, tmp_path / str(seed), seed=seed, epochs=1))
    one, other = (weights(tmp_path / str(seed)) for seed in (0, 1))
    assert not torch.equal(
        one["online.backbone.conv1.weight"], other["online.backbone.conv1.weight"]
    )


def test_workers_do_not_change_the_weights(data, tmp_path):
    run(small(data, tmp_path / "a", epochs=1))
    run(small(data, tmp_path / "b", epochs=1, workers=2))
    assert_bit_equal(tmp_path / "a", tmp_path / "b")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """Method -> the data and the folder of an uninterrupted run of 16 steps."""
    folder = tmp_path_factory.mktemp("long")
    data = write_folder(folder / "data", train=8, val=4)

    @functools.cache
    def whole(method: str) -> tuple[Path, Path]:
        flags = arguments(data, folder / method, "--epochs", "4", *LONG[method].split())
        run(*parse(Config, flags))
        return data, folder / method

    return whole


LONG = {
    "msbreg": "",
    "moco_v2": "--method moco_v2 --moco_v2.queue 10",
    "swav": "--method swav --swav.prototypes 5 --swav.queue 8 --swav.queue_from_epoch 1 "
    "--augment.local_views 1 --augment.local_size 8",
    "deepcluster_v2": "--method deepcluster_v2 --deepcluster_v2.clusters [3,4]",
    "dino": "--method dino --dino.prototypes 6 --dino.bottleneck 5",
}


@pytest.mark.parametrize(
    ("how", "method"),
    [
        (signal.SIGTERM, "msbreg"),
        (signal.SIGINT, "deepcluster_v2"),
        (signal.SIGKILL, "moco_v2"),  # a queue
        (signal.SIGKILL, "swav"),  # a queue and prototypes
        (signal.SIGKILL, "dino"),  # a center
    ],
)
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(long_run, tmp_path, how, method):
    data, whole = long_run(method)
    broken = tmp_path / "broken"
    # A checkpoint at every step.
    long = ("--epochs", "4", "--save_seconds", "0.001", *LONG[method].split())
    stopped = Program(SCRIPT, arguments(data, broken, *long), cwd=tmp_path)
    checkpoint = broken / "checkpoint.pth"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.send_signal(how)
    code, _, message = stopped.wait()
    saved = load_checkpoint(checkpoint)["step"]
    assert 0 < saved < 16, "the run was over before it was stopped"
    if how == signal.SIGKILL:
        assert code == -signal.SIGKILL
        assert read_record(broken)["status"] == "running"
    else:
        assert code == 75, message
        assert "Run the same command to continue" in message
        assert "Traceback" not in message
        assert read_record(broken)["status"] == "interrupted"
    code, _, message = Program(SCRIPT, arguments(data, broken, *long), cwd=tmp_path).wait()
    assert code == 0, message
    assert f"continuing from step {saved}" in message or how == signal.SIGKILL
    assert_bit_equal(whole, broken)
    assert_equal_training_states(whole, broken)
    rows = [json.loads(line) for line in (broken / "curve.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(5))
    losses = [json.loads(line) for line in (whole / "curve.jsonl").read_text().splitlines()]
    assert [row.get("total") for row in rows] == [row.get("total") for row in losses]


def test_a_completed_run_is_not_overwritten(data, tmp_path):
    config = small(data, tmp_path / "run", epochs=1)
    run(config)
    before = (tmp_path / "run" / "checkpoint.pth").read_bytes()
    with pytest.raises(UserError, match="contains a completed run.\nGive another --output"):
        run(config)
    assert run(small(data, tmp_path / "run", epochs=1, finished="skip")) == {}
    with pytest.raises(UserError, match=r"with other settings \(epochs = 2 here\)"):
        run(small(data, tmp_path / "run", epochs=2, finished="skip"))
    assert (tmp_path / "run" / "checkpoint.pth").read_bytes() == before


WATCH_LITTLE = DiagnosticsSettings(images=2, bank=2, queries=2)


def interrupted_run(data: Path, output: Path) -> None:
    """A run that an unreadable file stopped after its first checkpoint."""
    images = list_images(data / "train")
    watched = {images.paths[0], images.paths[-1]}
    for part in held_out_tail(images, 2):
        watched |= set(balanced_subset(part, 2, seed=0).paths)
    first, second = list(Order(len(images), 4, 2, seed=3).batches(0))[:2]
    seen = {images.paths[i] for _, i in first}
    late = [images.paths[i] for _, i in second if images.paths[i] not in watched | seen]
    bad = data / "train" / late[0]
    kept = bad.read_bytes()
    bad.write_bytes(b"x" * len(kept))  # same size: the list of files has not changed
    with pytest.raises(UserError, match=f"{late[0]} is not an image"):
        run(small(data, output, save_seconds=1e-6, seed=3, diagnostics=WATCH_LITTLE))
    bad.write_bytes(kept)


def test_a_run_resumes_after_an_unreadable_file_is_fixed(data, tmp_path):
    interrupted_run(data, tmp_path / "run")
    assert read_record(tmp_path / "run")["status"] == "failed"
    run(small(data, tmp_path / "run", save_seconds=1e-6, seed=3, diagnostics=WATCH_LITTLE))
    run(small(data, tmp_path / "whole", seed=3))
    assert_bit_equal(tmp_path / "run", tmp_path / "whole")


def test_an_unfinished_run_does_not_resume_with_other_settings_or_data(data, tmp_path):
    interrupted_run(data, tmp_path / "run")
    with pytest.raises(UserError, match="unfinished run with other settings: lambda_b = 0.1 here"):
        run(
            small(
                data,
                tmp_path / "run",
                save_seconds=1e-6,
                seed=3,
                diagnostics=WATCH_LITTLE,
                lambda_b=0.1,
            )
        )
    (data / "train" / "class0" / "000.png").unlink()
    with pytest.raises(UserError, match="files were added, removed or changed"):
        run(small(data, tmp_path / "run", save_seconds=1e-6, seed=3, diagnostics=WATCH_LITTLE))


def test_unreadable_files_can_be_skipped_and_are_counted(data, tmp_path):
    (data / "train" / "class1" / "003.png").write_bytes(b"no image")
    run(small(data, tmp_path / "run", skip_unreadable=True))
    record = read_record(tmp_path / "run")
    assert record["data"]["images"] == 15
    assert record["data"]["skipped_files"] == ["class1/003.png"]
    assert "unreadable files skipped: 1" in record["warnings"]


def test_labels_are_not_required(data, tmp_path):
    results = run(small(data / "train" / "class0", tmp_path / "run", epochs=1))
    assert "knn_top1" not in results
    assert "std" in results


def test_a_run_trains_on_the_split_that_is_given(tmp_path):
    stl10_tree(tmp_path / "stl10")
    split = "train+unlabeled"
    config = small(f"stl10:{tmp_path / 'stl10'}", tmp_path / "run", train_split=split, epochs=1)
    run(config)
    expected = open_source(config.data, split)
    record = read_record(tmp_path / "run")
    assert record["data"]["images"] == len(expected)
    assert record["data"]["fingerprint"] == expected.fingerprint


def test_the_default_split_keeps_the_digests_of_earlier_runs(data, tmp_path):
    assert is_as_before(small(data, tmp_path), "train_split", "train")


def test_a_collapse_is_recorded_as_a_warning(data, tmp_path):
    watch = DiagnosticsSettings(images=8, bank=16, queries=8, least_rank=100.0)
    run(small(data, tmp_path / "run", epochs=1, diagnostics=watch))
    warning = read_record(tmp_path / "run")["warnings"][-1]
    assert warning.startswith("epoch 1: the embeddings are collapsing: their effective rank is ")


STOP = DiagnosticsSettings(images=8, bank=16, queries=8, least_rank=100.0, on_collapse="stop")


def test_a_collapse_stops_the_run_on_request_and_keeps_the_checkpoint(data, tmp_path):
    output = tmp_path / "run"
    with pytest.raises(RunFailed) as failure:
        run(small(data, output, diagnostics=STOP, save_seconds=1e-6))
    message = str(failure.value)
    assert message.startswith("epoch 1: the embeddings are collapsing: their effective rank is ")
    assert "diagnostics.on_collapse is stop.\nStart over in another --output" in message
    assert "contains the state after step 3." in message
    assert load_checkpoint(output / "checkpoint.pth")["step"] == 3
    rows = [json.loads(line) for line in (output / "curve.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1]
    assert read_record(output)["status"] == "failed"


def test_a_run_that_a_collapse_stopped_continues_with_a_warning_instead(data, tmp_path):
    with pytest.raises(RunFailed):
        run(small(data, tmp_path / "run", diagnostics=STOP, save_seconds=1e-6))
    run(small(data, tmp_path / "run", diagnostics=WATCH_LITTLE, save_seconds=1e-6))
    run(small(data, tmp_path / "whole"))
    assert_bit_equal(tmp_path / "run", tmp_path / "whole")


def test_a_collapse_stops_all_processes(data, tmp_path):
    flags = "--head_norm ln --diagnostics.least_rank 100 --diagnostics.on_collapse stop"
    outcomes = run_group(SCRIPT, *arguments(data, tmp_path / "run", *flags.split()))
    assert [code for code, _, _ in outcomes] == [1, 1]
    for _, _, message in outcomes:
        assert "error: epoch 1: the embeddings are collapsing" in message
        assert "Traceback" not in message


def test_diagnostics_do_not_change_the_training(data, tmp_path):
    """One run measures forces after every epoch; the other looks at two images at the end."""
    little = DiagnosticsSettings(every=2, images=2, bank=2, queries=2, uniformity_t=1.0)
    run(small(data, tmp_path / "watched", add=("uniformity",)))
    run(small(data, tmp_path / "other", add=("uniformity",), diagnostics=little))
    rows = (tmp_path / "watched" / "curve.jsonl").read_text().splitlines()
    assert "force/uniformity" in json.loads(rows[1])
    assert "force/" not in (tmp_path / "other" / "curve.jsonl").read_text()
    assert_bit_equal(tmp_path / "watched", tmp_path / "other")
    states = [load_checkpoint(tmp_path / name / "checkpoint.pth") for name in ("watched", "other")]
    for part in ("optimizer", "generators"):
        one, other = (flattened(s[part] if part in s else s["loop"][part]) for s in states)
        assert one.keys() == other.keys()
        for name, value in one.items():
            same = other[name]
            assert torch.equal(value, same) if isinstance(value, torch.Tensor) else value == same


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--data /no/such/folder", "is neither a folder nor a known name"),
        ("--views 1", "views is 1; expected at least 2"),
        ("--batch_size 1", "batch_size is 1; expected at least 2"),
        ("--batch_size 400", "there are only 16 images"),
        ("--arch resnet19", "'resnet19' is unknown; did you mean resnet18?"),
        ("--augment.crop_area [0.5,2]", "crop_area"),
        ("--nonsense 3", "nonsense"),
        ("--device cuda:99", "requires GPU 99"),
        ("--max_images 99", "99 images were requested from"),
        ("--output /proc/nowhere", "cannot be written"),
    ],
)
def test_user_errors_give_one_message(data, tmp_path, flags, words):
    words_given = arguments(data, tmp_path / "run", *flags.split())
    code, _, message = Program(SCRIPT, words_given, cwd=tmp_path).wait()
    assert code == 2, message
    assert words in message
    assert "Traceback" not in message


def test_two_runs_cannot_write_to_the_same_folder(data, tmp_path):
    import fcntl

    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is writing to"):
            run(small(data, tmp_path / "run"))


def test_files_ignored_because_of_their_suffix_are_counted_in_the_record(data, tmp_path):
    (data / "train" / "class0" / "dance.gif").write_bytes(b"GIF89a")
    run(small(data, tmp_path / "run", epochs=1), Card("test", {}))
    (warning,) = read_record(tmp_path / "run")["warnings"]
    assert "files ignored because of their suffix: 1 (1 x .gif)" in warning


def test_without_a_card_a_warning_names_the_card_for_ones_own_photographs(data, tmp_path):
    run(small(data, tmp_path / "run", epochs=1))
    (warning,) = read_record(tmp_path / "run")["warnings"]
    (named,) = re.findall(r"configs/\S+\.yaml", warning)
    assert (SCRIPT.parents[1] / named).is_file()
    run(small(data, tmp_path / "with-card", epochs=1), Card("test", {}))
    assert read_record(tmp_path / "with-card")["warnings"] == []


def test_diagnostics_and_paths_are_not_part_of_the_digest(data, tmp_path):
    digests = []
    for name, classes, changes in (
        ("a", ["class0", "class1"], {}),
        ("b", ["class1", "class0"], {"diagnostics": WATCH_LITTLE, "save_seconds": 9.0}),
        ("c", ["class0"], {}),
        ("d", ["class0", "class1"], {"lambda_b": 0.3}),
    ):
        listed = tmp_path / f"{name}.txt"
        listed.write_text("\n".join(classes))
        run(small(data, tmp_path / name, epochs=1, classes_file=listed, **changes))
        digests.append(read_record(tmp_path / name)["digest"])
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_one_process_decides_for_all_which_files_are_unreadable(data, tmp_path):
    """The second process cannot check any file, but trains on the images that the first one chose."""
    (data / "train" / "class1" / "003.png").write_bytes(b"no image")
    assert run_pair("tests.pretrain.skip_unreadable", data, tmp_path / "run") == [0, 0]
    assert read_record(tmp_path / "run")["data"]["skipped_files"] == ["class1/003.png"]
