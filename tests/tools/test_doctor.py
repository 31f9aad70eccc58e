"""Conflicts are found in the metadata of installed distributions, and each has a remedy."""

import os
import sys
from pathlib import Path

import pytest
import torch

from tests.processes import Program
from tools import doctor
from tools.doctor import Finding

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Write the metadata of a distribution where Python finds it before any other."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, version="1.0"):
        info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (info / "METADATA").write_text(text)

    return write


def test_every_check_returns_a_finding():
    for check in doctor.CHECKS.values():
        finding = check()
        assert isinstance(finding, Finding)
        assert finding.text


def test_two_builds_of_opencv_conflict(install):
    install("opencv-python", "4.11.0")
    install("opencv-python-headless", "4.11.0")
    finding = doctor.opencv()
    assert finding.text.startswith("several builds: opencv-python 4.11.0, opencv-python-headless")
    assert finding.remedy.startswith("pip uninstall opencv-python opencv-python-headless;")


def test_two_distributions_of_faiss_conflict(install):
    install("faiss-cpu")
    install("faiss-gpu-cuvs")
    finding = doctor.faiss()
    assert "faiss-cpu 1.0, faiss-gpu-cuvs 1.0" in finding.text
    assert finding.remedy == ("pip uninstall faiss-cpu faiss-gpu-cuvs; pip install faiss-gpu-cuvs")


@pytest.mark.parametrize(("version", "old"), [("0.5.1", True), ("0.6", False), ("0.10", False)])
def test_an_old_detectron2_conflicts(install, version, old):
    install("detectron2", version)
    assert bool(doctor.detectron2().remedy) == old


def test_mmsegmentation_is_named_with_what_it_needs(install):
    for name, version in (("onedl-mmcv", "2.3.6"), ("onedl-mmsegmentation", "1.4.2")):
        install(name, version)
    finding = doctor.mmsegmentation()
    assert "onedl-mmcv 2.3.6, onedl-mmsegmentation 1.4.2" in finding.text
    assert not finding.remedy


without_mmseg = pytest.mark.skipif(
    doctor.version_of("onedl-mmsegmentation") is not None, reason="MMSegmentation is installed"
)


@without_mmseg
@pytest.mark.parametrize(
    ("names", "text", "remedy"),
    [
        (("onedl-mmcv", "onedl-mmsegmentation", "mmcv"), "overwrite", "pip uninstall onedl-mmcv"),
        (("onedl-mmsegmentation",), "expected onedl-mmcv", "--upgrade"),
        (("mmcv", "mmsegmentation"), "not tried here", "pip uninstall mmcv mmsegmentation;"),
    ],
)
def test_other_builds_of_mmsegmentation_conflict(install, names, text, remedy):
    for name in names:
        install(name, "1.4.2")
    finding = doctor.mmsegmentation()
    assert text in finding.text
    assert remedy in finding.remedy


@without_mmseg
def test_an_mmcv_of_another_program_does_not_conflict(install):
    install("mmcv", "2.1.0")
    assert not doctor.mmsegmentation().remedy


def test_more_threads_than_cores_conflict():
    usable = len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    torch.set_num_threads(usable + 1)
    try:
        finding = doctor.threads()
    finally:
        torch.set_num_threads(before)
    assert finding.remedy == f"set OMP_NUM_THREADS={usable}"


def test_a_conflict_is_marked_and_followed_by_its_remedy():
    checks = {"good": lambda: Finding("1.0"), "bad": lambda: Finding("twice", "remove one")}
    lines, conflicts = doctor.report(checks.items())
    assert conflicts == 1
    assert [line.split() for line in lines] == [
        ["good", "1.0"],
        ["!", "bad", "twice"],
        ["->", "remove", "one"],
    ]


@pytest.mark.parametrize(
    ("names", "code"), [((), 0), (("opencv-python", "opencv-contrib-python"), 1)]
)
def test_the_exit_code_says_whether_something_conflicts(install, monkeypatch, names, code):
    checks = {"OpenCV": doctor.opencv} if names else {"Python": doctor.python}
    for name in names:
        install(name)
    monkeypatch.setattr(doctor, "CHECKS", checks)
    monkeypatch.setattr(sys, "argv", ["tools/doctor.py"])
    assert doctor.main() == code


def test_the_script_prints_every_check():
    code, out, _ = Program(ROOT / "tools" / "doctor.py", []).wait()
    assert code == ("conflict" in out.splitlines()[-1] and "!" in out)
    assert all(f" {name} " in out for name in doctor.CHECKS)
