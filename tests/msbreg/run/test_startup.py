"""``--help`` and errors in options, cards and paths appear before PyTorch is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "sklearn",
    "matplotlib",
    "tensorboard",
    "rich",
    "faiss",
    "joblib",
)
FROZEN = ("transfer/knn.py", "transfer/linear.py", "transfer/svm.py")
SCRIPTS = ("pretrain/run.py", *FROZEN, "transfer/detection.py", "transfer/suite.py")
LATER = (
    "pretrain/ablate.py",
    "transfer/logistic.py",
    "transfer/robustness.py",
    "transfer/segmentation.py",
    "transfer/dense_knn.py",
    "transfer/depth.py",
)
TOOLS = (
    "tools/convert_to_d2.py",
    "tools/inspect_checkpoint.py",
    "tools/report.py",
    "tools/score.py",
    "tools/verify_data.py",
    "tools/doctor.py",
)
VOC = "--config configs/voc_c4.yaml"
WRONG = [
    *((script, "--xyzzy 3", "--xyzzy is unknown.") for script in (*SCRIPTS, *TOOLS[4:])),
    *((tool, "file --xyzzy", "--xyzzy is unknown.") for tool in TOOLS[:4]),
    *(
        (script, "--data nowhere --checkpoint random", "data 'nowhere' is neither")
        for script in FROZEN
    ),
    *((s, "--checkpoint nowhere.pth", "nowhere.pth does not exist") for s in (*FROZEN, SCRIPTS[5])),
    *((s, "--config configs/voc_c4.yaml", "a card for transfer/detection.py") for s in FROZEN),
    *((s, "--config nowhere.yaml", "card nowhere.yaml does not exist") for s in SCRIPTS[:4]),
    *(
        (script, "--checkpoint random --output README.md", "README.md is a file")
        for script in FROZEN
    ),
    ("transfer/knn.py", "--config configs/digits_svm.yaml", "is a card for transfer/svm.py"),
    (
        "transfer/knn.py",
        "--arch resnet19",
        "arch: backbone 'resnet19' is unknown; did you mean resnet18",
    ),
    ("transfer/knn.py", "--arch timm/hf-hub:a/b", "arch: backbone 'timm/hf-hub:a/b' is unknown"),
    ("pretrain/run.py", "--arch vit_small_patch16", "only ResNets can be pre-trained"),
    ("tools/convert_to_d2.py", "README.md --arch timm/vit_x", "only ResNets can be pre-trained"),
    ("tools/inspect_checkpoint.py", "README.md --arch resnet19", "'resnet19' is unknown"),
    ("transfer/knn.py", "--tempreature 3", "did you mean --temperature?"),
    ("pretrain/run.py", "--data nowhere", "data 'nowhere' is neither"),
    ("pretrain/ablate.py", "--rows k4-bs", "'k4-bs' is unknown; did you mean k4-b-s?"),
    ("pretrain/ablate.py", "--data nowhere", "data 'nowhere' is neither"),
    ("pretrain/run.py", "--classes-file nowhere.txt", "nowhere.txt does not exist"),
    ("pretrain/run.py", "--views 1", "views is 1; expected at least 2"),
    ("transfer/suite.py", "--data nowhere --checkpoint README.md", "data 'nowhere' is neither"),
    ("transfer/suite.py", "--checkpoint README.md --cards none", "none_SCRIPT.yaml"),
    ("transfer/suite.py", "--detectors digits_knn", "digits_knn"),
    ("transfer/detection.py", "--config configs/digits_knn.yaml", "a card for transfer/knn.py"),
    ("transfer/detection.py", "--config nowhere.yaml", "nowhere.yaml"),
    ("transfer/detection.py", f"{VOC} --checkpoint nowhere.pth", "nowhere.pth does not exist"),
    ("transfer/detection.py", f"{VOC} --data nowhere", "data 'nowhere'"),
    ("transfer/detection.py", f"{VOC} SOLVER.MAX_ITERS 3", "SOLVER.MAX_ITERS"),
    ("transfer/detection.py", f"{VOC} SOLVER.MAX_ITER many", "SOLVER.MAX_ITER is 'many'"),
    ("transfer/segmentation.py", "--data nowhere --checkpoint random", "data 'nowhere' is neither"),
    ("transfer/segmentation.py", "--config configs/digits_knn.yaml", "a card for transfer/knn.py"),
    ("transfer/dense_knn.py", "--data nowhere --checkpoint random", "data 'nowhere' is neither"),
    ("transfer/dense_knn.py", "--temperature 0", "temperature is 0"),
    ("transfer/depth.py", "--depth.iterations 0", "depth.iterations is 0"),
    ("transfer/depth.py", "--data nowhere --checkpoint random", "data 'nowhere' does not exist"),
    ("tools/convert_to_d2.py", "nowhere.pth", "nowhere.pth does not exist"),
    ("tools/convert_to_d2.py", "README.md --to nothing", "invalid choice: 'nothing'"),
    ("tools/inspect_checkpoint.py", "nowhere.pth", "nowhere.pth does not exist"),
    ("tools/inspect_checkpoint.py", "nowhere.pth --json", "nowhere.pth does not exist"),
    ("tools/report.py", "nowhere", "nowhere does not exist"),
    ("tools/score.py", "nowhere", "nowhere does not exist"),
    ("tools/verify_data.py", "--data nowhere", "data 'nowhere' is neither"),
]


@pytest.fixture(scope="module")
def outcomes() -> dict[tuple[str, str], tuple[int, str, str]]:
    """(script, words) -> exit code, standard output and standard error."""
    cases = [(script, words) for script, words, _ in WRONG]
    cases += [(script, "--help") for script in (*SCRIPTS, *LATER, *TOOLS)]
    command = [sys.executable, "-m", "tests.msbreg.run.starting", *HEAVY]
    done = subprocess.run(
        command, cwd=ROOT, input=json.dumps(cases), capture_output=True, text=True, check=True
    )
    return dict(zip(cases, map(tuple, json.loads(done.stdout)), strict=True))


@pytest.mark.parametrize("script", [*SCRIPTS, *LATER, *TOOLS])
def test_help_imports_nothing_heavy(outcomes, script):
    code, stdout, stderr = outcomes[script, "--help"]
    assert code == 0, stderr
    assert stdout.startswith("usage: ")
    assert stdout.endswith("imported:\n")


@pytest.mark.parametrize(("script", "words", "message"), WRONG, ids=lambda value: str(value))
def test_invalid_input_is_reported_before_pytorch_is_imported(outcomes, script, words, message):
    code, stdout, stderr = outcomes[script, words]
    assert code == 2, stderr
    assert stderr.startswith("error: ")
    assert message in stderr
    assert "Traceback" not in stderr
    assert stdout.endswith("imported:\n")


def test_help_ends_silently_when_its_reader_has_enough():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "transfer/linear.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")
