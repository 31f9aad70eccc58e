"""Who may import whom: read from the source, so that it stays true."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("msbreg", "pretrain", "transfer", "tools")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
# Scripts import no scripts; the suite is the one that runs them.
MAY_IMPORT_SCRIPTS = {"transfer/suite.py"}


def imports(file: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def starts_with(names: set[str], *packages: str) -> set[str]:
    return {n for n in names if any(n == p or n.startswith(p + ".") for p in packages)}


def name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", FILES, ids=name)
def test_imports_keep_to_the_layers(file):
    allowed = {
        "msbreg": ("msbreg",),
        "pretrain": ("msbreg", "pretrain"),
        "transfer": ("msbreg", "transfer"),
        "tools": PACKAGES,
    }[file.relative_to(ROOT).parts[0]]
    ours = starts_with(imports(file), *PACKAGES, "tests", "benchmarks")
    assert not ours - starts_with(ours, *allowed)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_optional_and_global_libraries_have_one_door(file):
    doors = {
        "torch.distributed": "msbreg/run/distributed.py",
        "detectron2": "transfer/detectors/detectron2_engine",
        "torchvision.models.detection": "transfer/detectors/rcnn/",
        "faiss": "msbreg/neighbors.py",
    }
    for library, door in doors.items():
        if not name(file).startswith(door):
            assert not starts_with(imports(file), library)


@pytest.mark.parametrize("file", FILES, ids=name)
def test_scripts_do_not_import_scripts(file):
    if name(file) in MAY_IMPORT_SCRIPTS:
        return
    scripts = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts)
        for f in FILES
        if '__name__ == "__main__"' in f.read_text()
    } - {"msbreg.data.digits.generate"}  # a module that can also be run
    assert not imports(file) & scripts


@pytest.mark.parametrize("file", FILES, ids=name)
def test_what_style_forbids_is_absent(file):
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.keyword)
            and node.arg == "strict"
            and "load_state_dict" in ast.dump(tree)
        ):
            value = node.value
            assert not (isinstance(value, ast.Constant) and value.value is False), "strict=False"
        if isinstance(node, ast.ExceptHandler):
            silent = all(isinstance(line, ast.Pass) for line in node.body)
            assert node.type is not None, "bare except"
            assert not silent, "an error is passed over in silence"
    assert file.stem not in ("utils", "util", "misc", "helpers", "common")
