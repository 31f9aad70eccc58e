"""Show what is installed, what runs where, and what conflicts.

    python tools/doctor.py

Prints one line per finding: versions, the CPU and its units, GPUs, the nearest-neighbor search, optional
packages, threads, memory and disk space. A conflict is marked with ! and followed by its remedy. Exit
code 0: nothing conflicts; 1: something does.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from msbreg.run.errors import exit_codes
from tools.tool_parser import ToolParser

if __name__ == "__main__":  # options are checked before PyTorch is imported
    with exit_codes():
        ToolParser(__doc__).parse_args()

import torch

from msbreg.float32_product import has_fast_bfloat16, mkl_is_fast, onednn_product
from msbreg.neighbors import faiss_search
from transfer.frozen.frozen_config import default_cache

GIB = 2**30
OPENCV = (
    *("opencv-python", "opencv-python-headless"),
    *("opencv-contrib-python", "opencv-contrib-python-headless"),
)
"""Distributions that all install the module `cv2`."""
SHARED_MEMORY = (
    GIB  # a data loader's worker passes batches through /dev/shm; containers often have 64 MB
)
DISK = 5 * GIB
OLDEST_DETECTRON2 = "0.6"
OLDEST_MMSEG = "1.4"
MMSEG = {
    "mmcv": "onedl-mmcv",
    "mmsegmentation": "onedl-mmsegmentation",
    "mmengine": "onedl-mmengine",
}
"""Distributions of OpenMMLab -> those that install the same modules and work with today's PyTorch."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        text: what there is.
        remedy: what to do about it; empty if nothing is wrong.
    """

    text: str
    remedy: str = ""


# ---- Versions


def python() -> Finding:
    return Finding(f"{platform.python_version()} ({sys.executable})")


def pytorch() -> Finding:
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    return Finding(f"torch {torch.__version__}, built for {build}")


def torchvision() -> Finding:
    version = version_of("torchvision")
    if version is None:
        return Finding("not installed", "pip install torchvision")
    try:
        import torchvision.ops

        boxes, scores = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1)
        torchvision.ops.nms(boxes, scores, 0.5)
    except (ImportError, RuntimeError) as error:
        return Finding(
            f"{version}, whose compiled operators do not work with this PyTorch ({first_line(error)})",
            "install both of one release: pip install --upgrade torch torchvision",
        )
    return Finding(f"{version}, compiled operators work")


def timm() -> Finding:
    return Finding(version_of("timm") or "not installed", *missing("timm"))


def pycocotools() -> Finding:
    return Finding(version_of("pycocotools") or "not installed", *missing("pycocotools"))


def opencv() -> Finding:
    found = {name: version for name in OPENCV if (version := version_of(name))}
    named = ", ".join(f"{name} {version}" for name, version in found.items())
    if len(found) > 1:
        return Finding(
            f"several builds: {named}; they overwrite each other's files",
            f"pip uninstall {' '.join(found)}; pip install opencv-python-headless",
        )
    return Finding(named or "not installed", *missing("opencv-python-headless", bool(found)))


def faiss() -> Finding:
    if message := faiss_search.conflict():
        text, _, remedy = message.partition("\n")
        return Finding(text, remedy.strip().replace("\n  ", "; "))
    found = faiss_search.installed_distributions()
    if not found:
        return Finding("not installed; optional")
    name, version = next(iter(found.items()))
    return Finding(f"{name} {version}, for {faiss_search.DISTRIBUTIONS[name]}")


def detectron2() -> Finding:
    version = version_of("detectron2")
    if version is None:
        return Finding("not installed; optional: detection uses torchvision's parts")
    if numbers(version) < numbers(OLDEST_DETECTRON2):
        return Finding(
            f"{version}; expected {OLDEST_DETECTRON2} or newer",
            "install a newer one: https://github.com/facebookresearch/detectron2/blob/main/INSTALL.md",
        )
    return Finding(version)


def mmsegmentation() -> Finding:
    maintained = {name: version for name in MMSEG.values() if (version := version_of(name))}
    upstream = {
        name: version
        for name in (*MMSEG, "mmcv-lite", "mmcv-full")
        if (version := version_of(name))
    }
    install = "pip install onedl-mmcv onedl-mmsegmentation"
    named = ", ".join(f"{name} {version}" for name, version in (maintained | upstream).items())
    if maintained and upstream:
        return Finding(
            f"{named}; they overwrite each other's files",
            f"pip uninstall {' '.join(maintained | upstream)}; {install}",
        )
    if upstream and "mmsegmentation" in upstream:
        return Finding(f"{named}; not tried here", f"pip uninstall {' '.join(upstream)}; {install}")
    version = maintained.get("onedl-mmsegmentation")
    if version is None:
        return Finding("not installed; optional: segmentation uses this suite's own network")
    if "onedl-mmcv" not in maintained or numbers(version) < numbers(OLDEST_MMSEG):
        return Finding(
            f"{named}; expected onedl-mmcv, and onedl-mmsegmentation {OLDEST_MMSEG} or newer",
            f"{install} --upgrade",
        )
    return Finding(named)


# ---- Hardware


def cpu() -> Finding:
    units = [
        name
        for name, question in (
            ("AVX-512", "_is_avx512_supported"),
            ("AVX512-BF16", "_is_avx512_bf16_supported"),
            ("AMX", "_is_amx_tile_supported"),
        )
        if getattr(torch.cpu, question, lambda: False)()
    ]
    bfloat16 = has_fast_bfloat16(torch.device("cpu"))
    return Finding(
        f"{torch.backends.cpu.get_cpu_capability()}; units: {', '.join(units) or 'none of AVX-512, AMX'}; "
        f"bfloat16 products are {'faster' if bfloat16 else 'slower'} than float32"
    )


def gpus() -> Finding:
    count = torch.cuda.device_count()
    if not count:
        if shutil.which("nvidia-smi") and not torch.version.cuda:
            return Finding(
                "a driver is installed, but this PyTorch is built for the CPU",
                "install the CUDA build: https://pytorch.org/get-started/locally/",
            )
        return Finding("none: everything runs on the CPU")
    named = []
    for index in range(count):
        about = torch.cuda.get_device_properties(index)
        bfloat16 = "bf16" if has_fast_bfloat16(torch.device("cuda", index)) else "no bf16"
        named.append(f"{about.name} ({about.total_memory / GIB:.0f} GiB, {bfloat16})")
    return Finding(", ".join(named))


def neighbor_search() -> Finding:
    device = torch.device("cuda" if torch.cuda.device_count() else "cpu")
    if has_fast_bfloat16(device):
        how = "shortlists in bfloat16, which the device has units for, and exact ranking"
    elif device.type == "cuda" or mkl_is_fast():
        how = "float32 products by the library behind `@`, and exact ranking"
    elif onednn_product():
        how = "float32 products by oneDNN, because MKL is slow on this CPU, and exact ranking"
    else:
        how = "float32 products by MKL, which is slow on this CPU: this PyTorch has no oneDNN operator"
    return Finding(f"PyTorch on {device.type}: {how}")


# ---- Resources


def threads() -> Finding:
    usable = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    used = torch.get_num_threads()
    text = f"{used} PyTorch threads on {usable} usable cores"
    if used > usable:
        return Finding(
            f"{text}; waiting threads slow the others down", f"set OMP_NUM_THREADS={usable}"
        )
    return Finding(text)


def pinned_memory() -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{soft / 2**20:.0f} MiB"
    text = f"locked-memory limit {limit}"
    if not torch.cuda.device_count():
        return Finding(f"{text}; no GPU to pin memory for")
    try:
        torch.empty(1 << 20, dtype=torch.uint8, pin_memory=True)
    except RuntimeError as error:
        return Finding(
            f"{text}; memory cannot be pinned ({first_line(error)}), so copies to the GPU wait",
            "raise the limit: ulimit -l unlimited, or docker run --ulimit memlock=-1",
        )
    return Finding(f"{text}; memory can be pinned")


def shared_memory() -> Finding:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        return Finding("this system has no /dev/shm")
    size = shutil.disk_usage(folder).total
    text = f"/dev/shm has {size / GIB:.2f} GiB"
    if size < SHARED_MEMORY:
        return Finding(
            f"{text}; processes that load data pass batches through it and are killed when it is full",
            "docker run --shm-size=8g",
        )
    return Finding(text)


def cache_folder() -> Finding:
    return disk_space(default_cache(), "set MSBREG_CACHE to a folder on a larger disk")


def temporary_folder() -> Finding:
    return disk_space(Path(tempfile.gettempdir()), "set TMPDIR to a folder on a larger disk")


CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": python,
    "PyTorch": pytorch,
    "torchvision": torchvision,
    "timm": timm,
    "OpenCV": opencv,
    "pycocotools": pycocotools,
    "FAISS": faiss,
    "Detectron2": detectron2,
    "MMSegmentation": mmsegmentation,
    "CPU": cpu,
    "GPUs": gpus,
    "kNN search": neighbor_search,
    "threads": threads,
    "pinned memory": pinned_memory,
    "shared memory": shared_memory,
    "feature cache": cache_folder,
    "temporary files": temporary_folder,
}
"""Every check; to add one, write a function that returns a finding, and name it here."""


# ---- Shared by the checks


def version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(distribution: str, present: bool | None = None) -> tuple[str, ...]:
    """The remedy if a required distribution is not installed; empty otherwise."""
    installed = version_of(distribution) is not None if present is None else present
    return () if installed else (f"pip install {distribution}",)


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> numbers("0.6+cu118") < numbers("0.10.2")
    True
    """
    parts = version.partition("+")[0].split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def disk_space(folder: Path, remedy: str) -> Finding:
    """Free space on the disk of a folder that may not exist yet."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    text = f"{folder}: {free / GIB:.1f} GiB free"
    return Finding(text) if free >= DISK else Finding(f"{text}; features may not fit", remedy)


def first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def report(checks: Iterable[tuple[str, Callable[[], Finding]]]) -> tuple[list[str], int]:
    """Lines to print, and the number of conflicts."""
    lines, conflicts = [], 0
    for name, check in checks:
        finding = check()
        mark = "!" if finding.remedy else " "
        lines.append(f"{mark} {name:<16}{finding.text}")
        if finding.remedy:
            conflicts += 1
            lines.append(f"  {'':<16}-> {finding.remedy}")
    return lines, conflicts


def main() -> int:
    with exit_codes():
        ToolParser(__doc__).parse_args()
    lines, conflicts = report(CHECKS.items())
    noun = "conflict" if conflicts == 1 else "conflicts"
    print(*lines, "", f"{conflicts} {noun}." if conflicts else "Nothing conflicts.", sep="\n")
    return int(conflicts > 0)


if __name__ == "__main__":
    sys.exit(main())
