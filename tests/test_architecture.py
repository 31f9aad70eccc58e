"""Check the rules of the code base in its source: layers, imports, forbidden patterns, file names."""

import ast
import functools
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("msbreg", "pretrain", "transfer", "tools", "benchmarks")
FILES = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
ALLOWED = {
    "msbreg": ("msbreg",),
    "pretrain": ("msbreg", "pretrain"),
    "transfer": ("msbreg", "transfer"),
    "tools": PACKAGES,
    "benchmarks": PACKAGES,
}
# The subpackages of msbreg from the bottom up: each may import those before it.
LAYERS = ("run", "data", "backbones", "checkpoints", "train")
# Library -> the only files that may import it.
RESTRICTED = {
    "torch.distributed": ("msbreg/run/distributed.py",),
    "detectron2": ("transfer/detectors/detectron2_engine.py", "benchmarks/peers.py"),
    "torchvision.models.detection": ("transfer/detectors/rcnn/",),
    "faiss": ("msbreg/neighbors/faiss_search.py",),
    "torch.utils.data": ("msbreg/data/loading.py",),
    "mmseg": ("transfer/segmenters/mmseg_engine.py", "benchmarks/segmentation.py"),
    "mmcv": ("transfer/segmenters/mmseg_engine.py",),
    "mmengine": ("transfer/segmenters/mmseg_engine.py", "benchmarks/segmentation.py"),
    "h5py": ("msbreg/data/segmentation/depth_maps.py",),
    "submitit": ("transfer/orchestration/launchers/slurm_job.py",),
    "pyarrow": ("msbreg/data/classification/parquet.py",),
    "wandb": ("tools/sinks/wandb_sink.py",),
    "mlflow": ("tools/sinks/mlflow_sink.py",),
}
# Scripts that may run other scripts.
MAY_IMPORT_SCRIPTS = {"transfer/calibrate.py", "pretrain/ablate.py"}
EMPTY_NAMES = {"utils", "util", "misc", "helpers", "common", "settings"}


@functools.cache
def imports(tree: ast.AST) -> set[str]:
    """Dotted names of all imports in a file, at any level."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def starts_with(names: set[str], *packages: str) -> set[str]:
    return {n for n in names if any(n == p or n.startswith(p + ".") for p in packages)}


@functools.cache
def sources() -> list[tuple[str, str, ast.Module]]:
    """Name, text and syntax tree of every source file."""
    texts = [(str(file.relative_to(ROOT)), file.read_text()) for file in FILES]
    return [(name, text, ast.parse(text)) for name, text in texts]


def test_imports_respect_the_layers():
    wrong = []
    for name, _, tree in sources():
        package, *inside = name.split("/")
        ours = starts_with(imports(tree), *PACKAGES, "tests")
        wrong += [f"{name} imports {n}" for n in ours - starts_with(ours, *ALLOWED[package])]
        if package == "msbreg" and inside[0] in LAYERS:
            above = LAYERS[LAYERS.index(inside[0]) + 1 :]
            upward = starts_with(ours, *(f"msbreg.{layer}" for layer in above))
            wrong += [f"{name} imports {n}, which is above it" for n in upward]
    assert not wrong, "\n".join(sorted(wrong))


def test_some_libraries_are_imported_in_one_place_only():
    wrong = []
    for name, _, tree in sources():
        for library, allowed in RESTRICTED.items():
            if not name.startswith(allowed) and starts_with(imports(tree), library):
                wrong.append(f"{name} imports {library}; only {', '.join(allowed)} may")
    assert not wrong, "\n".join(wrong)


def test_scripts_do_not_import_scripts():
    scripts = {
        name.removesuffix(".py").replace("/", ".")
        for name, text, _ in sources()
        if 'if __name__ == "__main__"' in text and not name.startswith("msbreg/")
    }
    wrong = [
        f"{name} imports {script}"
        for name, _, tree in sources()
        for script in imports(tree) & scripts
        if name not in MAY_IMPORT_SCRIPTS
    ]
    assert not wrong, "\n".join(wrong)


def test_no_code_hides_errors():
    """``strict=False``, bare and silent ``except``, ``suppress`` around more than one statement."""
    wrong = []
    for name, _, tree in sources():
        for node in ast.walk(tree):
            where = f"{name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                called = getattr(node.func, "attr", getattr(node.func, "id", ""))
                values = [k.value for k in node.keywords if k.arg == "strict"]
                values += node.args[1:2] if called == "load_state_dict" else []
                loads = called in ("load_state_dict", "load_model")
                if loads and any(isinstance(v, ast.Constant) and v.value is False for v in values):
                    wrong.append(f"{where}: loads with strict=False")
            if isinstance(node, ast.ExceptHandler):
                if node.type is None:
                    wrong.append(f"{where}: bare except")
                if all(isinstance(line, ast.Pass) for line in node.body):
                    wrong.append(f"{where}: an error is silently ignored")
            if isinstance(node, ast.With):
                managers = [ast.unparse(item.context_expr) for item in node.items]
                suppressed = [m for m in managers if "suppress(" in m]
                if any("suppress(Exception" in m or "BaseException" in m for m in suppressed):
                    wrong.append(f"{where}: suppresses every exception")
                if suppressed and len(node.body) > 1:
                    wrong.append(f"{where}: suppresses errors of several statements")
    assert not wrong, "\n".join(wrong)


def test_files_and_folders_stay_few_and_distinctly_named():
    """At most 340 code files, at most 15 per folder, no duplicate names, no meaningless names.

    The limit of 340 applies to msbreg, pretrain, transfer and tools, without benchmarks.
    """
    code = [file for file in FILES if file.name != "__init__.py"]
    folders = Counter(str(file.parent.relative_to(ROOT)) for file in code)
    names = Counter(file.stem for file in code if file.relative_to(ROOT).parts[0] != "benchmarks")
    assert names.total() <= 340, f"{names.total()} files of code"
    assert {folder: count for folder, count in folders.items() if count > 15} == {}
    assert [name for name, count in names.items() if count > 1 or name in EMPTY_NAMES] == []


def test_images_are_decoded_where_their_size_is_checked_first():
    """A small file can contain billions of pixels, so only these modules may decode."""
    allowed = {"msbreg/data/decoding.py", "benchmarks/views.py"}
    found = {
        str(file.relative_to(ROOT))
        for file in FILES
        if re.search(r"\bcv2\.(imdecode|imread)\(|\bdecode_(jpeg|png)\(", file.read_text())
    }
    assert found <= allowed
