"""Checkpoints of a detector in training: what a run is continued from, bit for bit."""

import contextlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from msbreg.checkpoints.layouts.content import overview
from msbreg.checkpoints.load import load_exactly, save_checkpoint
from msbreg.checkpoints.read import read_file
from msbreg.run import distributed
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.job import Job, log
from transfer.detectors.train_loop import State, diverged

KIND = "msbreg-detection"
SCHEMA = 1
_COUNTERS = ("iteration", "counted", "averaged_at", "evaluated_at")


def save(state: State, path: Path, about: dict[str, Any]) -> None:
    """Write all that a continuation needs; every process calls it, one writes.

    Args:
        about: of the run: settings, fingerprints of the data, engine, device type, provenance.

    Raises:
        RunFailed: the weights are not finite; the checkpoint before them stays.
    """
    weights = state.model.state_dict()
    _check_finite(weights, state.iteration)
    generators = distributed.gather_objects(_generators())
    sums = distributed.gather_objects(state.sums)
    if distributed.is_main():
        content = {name: getattr(state, name) for name in _COUNTERS}
        save_checkpoint(
            path,
            {
                "kind": KIND,
                "about": about,
                "model": weights,
                "optimizer": state.solver.optimizer.state_dict(),
                "generators": generators,
                "sums": sums,
                **content,
            },
        )
    state.saved_at = state.iteration
    distributed.barrier()


def _check_finite(weights: Mapping[str, Tensor], iteration: int) -> None:
    """A last step may spoil the weights, or BatchNorm's statistics, behind losses that are finite."""
    bad = [n for n, v in weights.items() if v.is_floating_point() and not v.isfinite().all()]
    everywhere = [name for names in distributed.gather_objects(bad) for name in names]
    if everywhere:
        raise diverged(
            iteration, f"{len(everywhere)} tensors are not finite, the first {everywhere[0]}"
        )


@contextlib.contextmanager
def naming_what_is_left(state: State, path: Path) -> Iterator[None]:
    """Where a run fails, say which checkpoint it leaves."""
    try:
        yield
    except RunFailed as error:
        left = "No checkpoint was written yet."
        if state.saved_at is not None:
            left = f"{path} holds the state after iteration {state.saved_at}."
        raise RunFailed(f"{error}\n{left}") from error


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of ``save``; no code in the file is run.

    Raises:
        UserError: no such file, cut short, or not one of a detector in training.
    """
    content = read_file(path).content
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise UserError(
            f"{path} is no checkpoint of transfer/detection.py: it holds {overview(content)}.\n"
            f"Expected the entry kind = {KIND!r}."
        )
    if content.get("schema") != SCHEMA:
        raise UserError(
            f"{path} has checkpoint schema {content.get('schema')!r}; this version reads {SCHEMA}"
        )
    return content


def restore(state: State, content: dict[str, Any], path: Path) -> str | None:
    """Put everything back; returns what is not as it was, if anything.

    Raises:
        UserError: weights or optimizer are of another detector.
    """
    load_exactly(state.model, content["model"], path)
    try:
        state.solver.optimizer.load_state_dict(content["optimizer"])
    except ValueError as error:
        raise UserError(f"{path} holds the optimizer of another detector: {error}") from error
    for name in _COUNTERS:
        setattr(state, name, content[name])
    state.saved_at = state.iteration
    generators, sums = content["generators"], content["sums"]
    if len(generators) == distributed.world_size():
        _put_back(generators[distributed.rank()])
        state.sums = sums[distributed.rank()]
        return None
    state.sums = {name: sum(of[name] for of in sums) / len(sums) for name in sums[0]}
    return (
        f"continued on {distributed.world_size()} processes, begun on {len(generators)}: proposals "
        "are sampled by other random numbers, and a few images come twice or not at all in this epoch"
    )


def resume(state: State, path: Path, running: Job, about: dict[str, Any]) -> None:
    """Continue a run of the job's folder.

    Raises:
        UserError: the checkpoint has no record beside it, or is of other data or another engine.
    """
    if not running.resumed:
        raise UserError(
            f"{path} lies in an output folder without the record of its run; "
            "give another --output, or move the file away"
        )
    try:
        content = read(path)
    except UserError as error:
        raise UserError(
            f"{error}\nThis run was to be continued from it; without the file, the same command begins anew."
        ) from error
    before = content["about"]
    for what, then, now in (
        ("data", _without_files(before["data"]), _without_files(about["data"])),
        ("engine", before["engine"], about["engine"]),
    ):
        if then != now:
            raise UserError(
                f"{path} was trained with {what} = {then}, here it is {now}.\n"
                "Put it back to continue, or start anew in another --output."
            )
    if before["data"] != about["data"]:  # as it is when an unreadable one was replaced
        running.warn("image files have other sizes than when the run began")
    if before["device"] != about["device"]:
        running.warn(
            f"continued on {about['device']}, begun on {before['device']}: proposals are sampled by "
            "other random numbers, sums are rounded differently, and the BatchNorm of several "
            "processes is synchronized on cuda only"
        )
    if warning := restore(state, content, path):
        running.warn(warning)
    log.info("continuing after iteration %d", state.iteration)


def _without_files(data: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The description of the data but for what depends on image files."""
    return {
        which: {name: value for name, value in split.items() if name != "fingerprint"}
        for which, split in data.items()
    }


def _generators() -> dict[str, Any]:
    """Of torch, NumPy and Python; in types that are read back without running code."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - the global one, for users
    version, words, gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(words), gauss],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _put_back(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"])
    name, keys, position, has_gauss, cached = states["numpy"]
    words: Tensor = keys
    np.random.set_state(  # noqa: NPY002
        (name, words.numpy().astype(np.uint32), position, has_gauss, cached)
    )
    version, python, gauss = states["python"]
    random.setstate((version, tuple(python), gauss))
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
