"""The suite runs every protocol and detector on a checkpoint and its twin, then writes the report."""

import pytest

from msbreg.backbones.resnet import build_backbone
from msbreg.checkpoints.load import save_checkpoint
from msbreg.run.errors import UserError
from msbreg.run.options import parse
from msbreg.run.record import read_record
from tests.msbreg.data.classification.fine_grained_trees import FINE_GRAINED_TREES
from tests.msbreg.data.classification.published_trees import imagenet_tree
from tests.msbreg.data.classification.variant_trees import VARIANT_TREES
from tests.transfer.boxes_data import make_voc, tiny_card
from transfer import detection, knn, suite


def save_untrained(path) -> None:
    backbone = build_backbone("resnet18-narrow", seed=7)
    config = {"method": "msbreg", "views": 2, "epochs": 1, "batch_size": 4, "seed": 7}
    online = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    content = {"arch": "resnet18-narrow", "image_size": 16, "step": 3, "steps": 9}
    save_checkpoint(path, content | {"config": config, "online": online})


def test_the_suite_runs_protocols_and_detectors_on_checkpoint_and_twin_and_reports_them(
    tmp_path, make_folder, monkeypatch, capsys
):
    monkeypatch.setattr(suite, "CARDS", tmp_path)
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))
    tiny_card(tmp_path, make_voc(tmp_path / "boxes") / "VOC2007")
    save_untrained(tmp_path / "checkpoint.pth")
    config = suite.Config(
        checkpoint=tmp_path / "checkpoint.pth",
        data=str(make_folder(train=20, val=2)),
        output=tmp_path / "runs",
        protocols=("knn",),
        cards="",
        detectors=("tiny",),
        random_seeds=1,
        device="cpu",
        workers=1,
    )
    page = suite.run(config).read_text()
    for network in ("pretrained", "random-0"):
        for name in ("knn", "tiny"):
            record = read_record(tmp_path / "runs" / network / name)
            assert record["status"] == "done"
            assert record["config"]["workers"] == 1
    assert "Transfer report" in page
    assert "box AP50" in page
    twin = read_record(tmp_path / "runs" / "random-0" / "knn")
    assert twin["network"]["image_size"] == 16  # that of the checkpoint
    captured = capsys.readouterr()
    assert captured.err.startswith(f"suite of {config.checkpoint} on {config.data}\n")
    (row,) = [line for line in captured.out.splitlines() if line.startswith("20-NN top-1")]
    value = read_record(tmp_path / "runs" / "pretrained" / "knn")["results"]["top1_20nn"]
    assert f"{value:.1f}" in row
    assert captured.out.endswith(f"report: {tmp_path / 'runs' / 'report' / 'report.html'}\n")


def test_the_report_is_written_after_each_run(tmp_path, make_folder, monkeypatch):
    save_untrained(tmp_path / "checkpoint.pth")
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))
    data = make_folder(train=20, val=2)
    config = suite.Config(
        checkpoint=tmp_path / "checkpoint.pth",
        data=str(data),
        output=tmp_path / "runs",
        protocols=("knn", "linear"),
        random_seeds=0,
        device="cpu",
    )
    cut = data / "val" / "class0" / "000.png"
    knn_run = knn.run

    def spoil_after(*arguments):
        results = knn_run(*arguments)
        cut.write_bytes(b"")
        return results

    monkeypatch.setattr(knn, "run", spoil_after)
    with pytest.raises(UserError, match="is empty"):
        suite.run(config)
    assert "20-NN top-1" in (tmp_path / "runs" / "report" / "report.md").read_text()


def test_the_suite_runs_logistic_regression_and_robustness_of_the_probe(tmp_path, monkeypatch):
    """A probe of three classes of ImageNet, two images of each in ImageNet-A, and a tiny Pets."""
    monkeypatch.setenv("MSBREG_CACHE", str(tmp_path / "cache"))
    save_untrained(tmp_path / "checkpoint.pth")
    imagenet_tree(tmp_path / "imagenet")
    VARIANT_TREES["imagenet-a"][0](tmp_path / "a")
    FINE_GRAINED_TREES["pets"][0](tmp_path / "pets")
    monkeypatch.setattr(suite, "CARDS", tmp_path)
    (tmp_path / "fine_grained_logistic.yaml").write_text(
        "regularizations: [1.0]\nval_split: test\n"
    )
    (tmp_path / "few_linear.yaml").write_text("learning_rates: [0.1]\nepochs: 1\n")
    config = suite.Config(
        checkpoint=tmp_path / "checkpoint.pth",
        data=f"imagenet:{tmp_path / 'imagenet'}",
        output=tmp_path / "runs",
        protocols=("linear",),
        cards="few",
        fine_grained=(f"pets:{tmp_path / 'pets'}",),
        robustness=(f"imagenet-a:{tmp_path / 'a'}",),
        random_seeds=1,
        device="cpu",
        workers=1,
    )
    suite.run(config)
    for network in ("pretrained", "random-0"):
        for name in ("linear", "logistic-pets", "robustness-imagenet-a"):
            assert read_record(tmp_path / "runs" / network / name)["status"] == "done"
    logistic = read_record(tmp_path / "runs" / "pretrained" / "logistic-pets")["config"]
    assert (logistic["train_split"], logistic["val_split"]) == ("trainval", "test")
    assert logistic["metric"] == "mean_per_class"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"fine_grained": ("pets",)}, "fine_grained is .* expected LAYOUT:FOLDER with different"),
        ({"fine_grained": ("pets:/no/such",)}, "/no/such' is neither a folder"),
        ({"robustness": ("imagenet-a:.",)}, "needs a linear probe of ImageNet, but data is digits"),
        ({"robustness": ("stl10:.",)}, "robustness is .* expected LAYOUT:FOLDER with different"),
        ({"robustness": ("imagenet-a:.",), "protocols": ("knn",)}, "linear among them"),
    ],
)
def test_unusable_data_sets_are_reported_before_anything_runs(tmp_path, given, words):
    save_untrained(tmp_path / "checkpoint.pth")
    with pytest.raises(UserError, match=words):
        suite.Config(checkpoint=tmp_path / "checkpoint.pth", **given).check_inputs()


def test_the_protocols_of_the_demo_are_unchanged():
    assert suite.Config().protocols == ("knn", "linear", "svm")


def test_data_without_voc_layout_is_reported_before_anything_runs(tmp_path, make_folder):
    save_untrained(tmp_path / "checkpoint.pth")
    config = suite.Config(
        checkpoint=tmp_path / "checkpoint.pth", data=str(make_folder()), output=tmp_path / "runs"
    )
    with pytest.raises(
        UserError, match=r"does not have VOC's layout(.|\n)*--protocols '\[knn, linear\]'"
    ):
        suite.run(config)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "detector", "protocol"),
    [({}, -1, 2), ({"workers": 3}, 3, 3)],
    ids=["left to the scripts", "given"],
)
def test_the_number_of_workers_is_passed_to_protocols_and_detectors(given, detector, protocol):
    words = suite.arguments_of_all(suite.Config(**given), "random", 0)
    card = f"--config={suite.CARDS / 'digits_voc_c4.yaml'}"
    assert parse(detection.Config, [card, *words], pairs="overrides")[0].workers == detector
    assert parse(knn.Config, words)[0].workers == protocol


def test_a_card_that_is_not_a_detectors_is_rejected_at_once():
    with pytest.raises(UserError, match=r"digits_knn is not a detector card(.|\n)*digits_voc_c4"):
        suite.Config(detectors=("digits_voc_c4", "digits_knn"))


def test_a_detector_with_unsupported_settings_is_rejected_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(suite, "CARDS", tmp_path)
    (tmp_path / "odd.yaml").write_text("VERSION: 2\nTEST:\n  AUG:\n    ENABLED: True\n")
    with pytest.raises(UserError, match=r"TEST\.AUG\.ENABLED"):
        suite.Config(detectors=("odd",))


def test_a_missing_card_is_rejected_with_a_list_of_the_known_ones():
    with pytest.raises(
        UserError, match=r"card .*nothing\.yaml does not exist; expected one of: .*voc_c4"
    ):
        suite.Config(detectors=("nothing",))


@pytest.mark.parametrize(("data", "announced"), [(None, True), ("digits", False)])
def test_without_data_the_embedded_digits_are_announced(
    tmp_path, monkeypatch, capsys, data, announced
):
    save_untrained(tmp_path / "checkpoint.pth")

    class Reached(Exception):
        """The first protocol was about to run."""

    def stop(*arguments):
        raise Reached

    monkeypatch.setattr(knn, "run", stop)
    config = suite.Config(checkpoint=tmp_path / "checkpoint.pth", data=data, output=tmp_path / "r")
    with pytest.raises(Reached):
        suite.run(config)
    assert ("EMBEDDED DIGITS" in capsys.readouterr().err) == announced


def test_a_layout_can_be_given_with_the_folder(tmp_path, make_folder):
    save_untrained(tmp_path / "checkpoint.pth")
    data = make_folder(train=2, val=2)
    settings = {"checkpoint": tmp_path / "checkpoint.pth", "output": tmp_path / "runs"}
    config = suite.Config(**settings, data=f"folder:{data}", protocols=("knn", "linear"))
    config.check_inputs()
    with pytest.raises(UserError, match="nowhere' is neither a folder nor a known name"):
        suite.Config(**settings, data=f"folder:{data}/nowhere").check_inputs()
