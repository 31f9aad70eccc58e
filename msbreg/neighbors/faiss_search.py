"""Shortlists by FAISS, on the CPU or on all GPUs; the only module that imports FAISS, which is optional."""

import importlib.metadata
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from msbreg.neighbors.shortlist import Metric, Shortlist, margin
from msbreg.neighbors.vectors import Vectors, common_scale
from msbreg.run.errors import UserError

DISTRIBUTIONS = {
    "faiss-cpu": "CPU",
    "faiss-gpu": "CUDA 12",
    "faiss-gpu-cuvs": "CUDA 13",
    "faiss-gpu-cu11": "CUDA 11",
    "faiss-gpu-cu12": "CUDA 12",
    "faiss-gpu-cu11-cuvs": "CUDA 11",
    "faiss-gpu-cu12-cuvs": "CUDA 12",
}
"""PyPI distributions that all install the module `faiss` -> what they run on."""
_ROWS_AT_ONCE = 32_768  # rows of the bank in FAISS at a time: 256 MB at dimension 2048
_LARGEST_K_ON_GPU = 2048  # FAISS's limit
_EXTRA = 16


def installed_distributions() -> dict[str, str]:
    """Name -> version of the installed distributions of FAISS."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def conflict() -> str:
    """A message if more than one distribution of FAISS is installed; empty otherwise.

    Each overwrites files of the other, and which files are left depends on the order of installation.
    """
    found = installed_distributions()
    if len(found) < 2:
        return ""
    named = ", ".join(f"{name} {version}" for name, version in found.items())
    everything = " ".join(found)
    return (
        f"several distributions of FAISS are installed: {named}; expected one, because they overwrite each "
        f"other's files. Uninstall all and install one again:\n"
        f"  pip uninstall {everything}\n"
        f"  pip install {next((name for name in found if name != 'faiss-cpu'), 'faiss-cpu')}"
    )


def load_faiss(*, gpus: bool) -> Any:
    """The module `faiss`.

    Raises:
        UserError: it is missing, installed twice or, with ``gpus``, does not see a GPU.
    """
    if message := conflict():
        raise UserError(message)
    try:
        import faiss  # here, because it is optional and loads a second OpenMP runtime
    except ModuleNotFoundError as error:
        raise UserError(
            "backend is faiss, but FAISS is not installed. Use the backend torch, which finds the same "
            "neighbors, or install FAISS: pip install faiss-cpu"
        ) from error
    if gpus and not (hasattr(faiss, "index_cpu_to_all_gpus") and faiss.get_num_gpus()):
        raise UserError(
            "backend is faiss-gpu, but the installed FAISS "
            f"({', '.join(installed_distributions()) or 'of unknown origin'}) finds no GPU. Use the backend "
            "torch, or replace FAISS: faiss-gpu is for CUDA 12, faiss-gpu-cuvs for CUDA 13"
        )
    return faiss


def scan_with_faiss(
    queries: Vectors,
    bank: Vectors,
    wanted: np.ndarray,  # indices of queries
    k: int,
    *,
    metric: Metric,
    gpus: bool,
    rows_at_once: int = _ROWS_AT_ONCE,
) -> Iterator[Shortlist]:
    """Yield one shortlist of all wanted queries: k + max(16, k / 4) rows by FAISS's float32 scores.

    A shortlist is complete if its last score is lower than the k-th by more than the rounding errors.
    """
    faiss = load_faiss(gpus=gpus)
    dimension = bank.rows.shape[1]
    kind = faiss.IndexFlatIP if metric == "cosine" else faiss.IndexFlatL2
    index = kind(dimension)
    if gpus:
        options = faiss.GpuMultipleClonerOptions()
        options.shard = True
        index = faiss.index_cpu_to_all_gpus(index, co=options)
    width = min(len(bank), k + max(_EXTRA, k // 4))
    if gpus and width > _LARGEST_K_ON_GPU:
        raise UserError(
            f"k is {k}, but FAISS's GPU search returns at most {_LARGEST_K_ON_GPU} rows, of which some are "
            "for checks. Use the backend torch"
        )
    scale = common_scale(queries, bank) if metric == "euclidean" else 1.0
    own = _float32(queries, wanted, metric, scale)
    scores = np.empty((len(own), 0), dtype=np.float32)
    candidates = np.empty((len(own), 0), dtype=np.int64)
    for start in range(0, len(bank), rows_at_once):
        block = _float32(bank, slice(start, start + rows_at_once), metric, scale)
        index.reset()
        index.add(block)
        found, places = index.search(own, min(width, len(block)))
        scores = np.concatenate([scores, found if metric == "cosine" else -found], axis=1)
        candidates = np.concatenate([candidates, places + start], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
        scores = np.take_along_axis(scores, order, axis=1)
        candidates = np.take_along_axis(candidates, order, axis=1)
    lengths = torch.from_numpy(queries.lengths[wanted] * scale)
    room = margin(lengths, bank.longest * scale, dimension, metric)
    complete = (scores[:, -1] < scores[:, k - 1] - room.numpy()) | (width == len(bank))
    constants = np.zeros(len(wanted))
    found = (candidates, scores, complete, constants, room.numpy() / 2)
    yield Shortlist(wanted, *(torch.from_numpy(part).to(bank.device) for part in found))


def _float32(
    vectors: Vectors, part: slice | np.ndarray, metric: Metric, scale: float
) -> np.ndarray:
    """Contiguous rows, normalized for the cosine."""
    rows = np.ascontiguousarray(vectors.rows[part], dtype=np.float32)
    if metric == "cosine":
        return (rows / vectors.lengths[part, None]).astype(np.float32)
    return rows if scale == 1 else (rows * np.float64(scale)).astype(np.float32)
