"""The state of the training loop and its checkpoints, from which training resumes bit for bit.

A checkpoint contains the state dict of the trainable and, under ``loop``, the state of the loop: the step,
the partial sums of the next row of the curve, the curve, and the random generators of every process.
"""

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from msbreg.checkpoints.load import save_checkpoint
from msbreg.checkpoints.read import read_file
from msbreg.run import distributed
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.files import write_atomically
from msbreg.run.job import Job
from msbreg.train.health import check_finite

if TYPE_CHECKING:
    from msbreg.train.loop import Trainable

CURVE = "curve.jsonl"


@dataclass
class State:
    """What the loop itself keeps track of.

    Attributes:
        step: number of completed steps, which is also the number of the next step.
        sums: sum of each loss term since the last row of the curve.
        counted: number of steps in ``sums``.
        prepared_at: step at which the last evaluation was prepared; 0 means never.
        evaluated_at: step at which the last evaluation was completed; 0 means never.
        saved_at: step at which the last checkpoint was written; None means never.
        curve: the rows so far.
    """

    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0
    prepared_at: int = 0
    evaluated_at: int = 0
    saved_at: int | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)

    @property
    def evaluated(self) -> bool:
        """Whether the current weights were evaluated."""
        return self.step > 0 and self.evaluated_at == self.step


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint file of a run, and the curve file in the same folder.

    Attributes:
        path: path of the checkpoint file.
        header: returns, for a step, the entries that describe the checkpoint, such as ``arch``.
    """

    path: Path
    header: Callable[[int], Mapping[str, Any]]

    def save(self, trainable: "Trainable", state: State) -> None:
        """Write everything needed to resume. All processes must call it; the main process writes.

        Raises:
            RunFailed: a weight is not finite, or the file cannot be written. The previous checkpoint is
                kept.
        """
        content = trainable.state_dict()
        check_finite(_flat(content), state.step, trainable.advice)
        everyone = distributed.gather_objects((generator_states(), state.sums))
        if distributed.is_main():
            loop = {
                "step": state.step,
                "sums": [sums for _, sums in everyone],
                "counted": state.counted,
                "prepared_at": state.prepared_at,
                "evaluated_at": state.evaluated_at,
                "curve": state.curve,
                "generators": [states for states, _ in everyone],
            }
            save_checkpoint(self.path, {**self.header(state.step), **content, "loop": loop})
        state.saved_at = state.step
        distributed.barrier()

    def restore(
        self, trainable: "Trainable", state: State, content: Mapping[str, Any]
    ) -> str | None:
        """Restore the trainable, the loop and the random generators from a checkpoint.

        Returns:
            A warning if the run cannot be resumed bit for bit, else None.

        Raises:
            UserError: the weights or the optimizer do not match; the message lists the differences.
        """
        try:
            trainable.load_state_dict(content)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error
        loop = content.get("loop") or _loop_of_0_1(content, self.path.with_name(CURVE))
        for name in ("step", "counted", "prepared_at", "evaluated_at"):
            setattr(state, name, int(loop[name]))
        state.curve = list(loop["curve"])
        state.saved_at = state.step
        sums, before = loop["sums"], len(loop["sums"])
        if before == distributed.world_size():
            state.sums = dict(sums[distributed.rank()])
            if loop["generators"]:
                restore_generators(loop["generators"][distributed.rank()])
            return None
        state.sums = {name: sum(one[name] for one in sums) / before for name in sums[0]}
        return _difference(before, loop["generators"])

    def write_curve(self, state: State) -> None:
        """Replace the curve file by the rows so far; only the main process writes.

        Raises:
            RunFailed: the file cannot be written. The previous file is kept.
        """
        if not distributed.is_main():
            return
        path = self.path.with_name(CURVE)
        content = "".join(json.dumps(row) + "\n" for row in state.curve)
        write_atomically(path, content.encode())

    @contextlib.contextmanager
    def named_in_failures(self, state: State) -> Iterator[None]:
        """If the run fails, add to the message which checkpoint it left."""
        try:
            yield
        except RunFailed as error:
            last = "No checkpoint was written yet."
            if state.saved_at is not None:
                last = f"{self.path} contains the state after step {state.saved_at}."
            raise type(error)(f"{error}\n{last}") from error


def require_record(path: Path, resumed: bool) -> None:
    """Reject a checkpoint without a record: the settings it was trained with are unknown.

    Raises:
        UserError: the folder has no record of an unfinished run with these settings.
    """
    if not resumed:
        raise UserError(
            f"{path} exists, but record.json is missing from that folder or belongs to another run.\n"
            "Give another --output, or move the file away."
        )


def unfinished_run(path: Path, kind: str, job: Job) -> dict[str, Any]:
    """The checkpoint of an interrupted run with the same settings; empty if there is none.

    Args:
        kind: the entry ``kind`` of the protocol's checkpoints.

    Raises:
        UserError: the file is another checkpoint, cannot be read, or its record is missing.
    """
    if not path.exists():
        return {}
    require_record(path, job.resumed)
    content = read_file(path).content
    if not isinstance(content, dict) or content.get("kind") != kind:
        raise UserError(
            f"{path} is not a checkpoint of this kind of run ({kind}); move the file away or give another "
            "--output"
        )
    return content


def require_same_data(path: Path, before: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Reject data other than those of the checkpoint ``before``.

    Raises:
        UserError: the images changed since then.
    """
    if before["data"] != data:
        raise UserError(
            f"{path} was trained with other data: {before['data']}.\n"
            "Restore them to continue, or start a new run in another --output."
        )


def _difference(before: int, generators: Sequence[Mapping[str, Any]]) -> str:
    """How a run that resumes on another number of processes differs from an uninterrupted one.

    Training that has drawn nothing from the global generators until now will not draw from them later: all
    its random numbers are functions of the seed, the step and the sample.
    """
    differs = "sums over processes are added in another order, which can change their last bits"
    here = generator_states()
    if any(not _same_generators(here, states) for states in generators):
        differs += "; the random numbers that each process draws start anew"
    return f"resumed on {distributed.world_size()} processes, started on {before}: {differs}"


# ---- Random generators


def generator_states() -> dict[str, Any]:
    """States of the global generators of PyTorch, NumPy and Python, in types safe to unpickle."""
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - users' code may draw from it
    version, words, gauss = random.getstate()
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "python": [version, list(words), gauss],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_generators(states: Mapping[str, Any]) -> None:
    """Set the global generators to what ``generator_states`` returned."""
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


def _same_generators(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two results of ``generator_states`` are equal; a GPU's only if both have one."""
    (name, keys, *rest), (name2, keys2, *rest2) = one["numpy"], other["numpy"]
    tensors = [
        (keys, keys2),
        *((one[k], other[k]) for k in ("torch", "cuda") if k in one and k in other),
    ]
    return (name, rest, one["python"]) == (name2, rest2, other["python"]) and all(
        torch.equal(a, b) for a, b in tensors
    )


@contextlib.contextmanager
def separate_generators(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators with (seed, step, rank) inside the context; restore them on exit."""
    with torch.random.fork_rng([device.index] if device.type == "cuda" else []):
        entropy = np.random.SeedSequence([seed, step, distributed.rank()])
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        yield


# ---- Contents of checkpoints


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested state dicts to dotted names; optimizers are omitted."""
    out: dict[str, Any] = {}
    for name, value in content.items():
        if name == "optimizer":
            continue
        if isinstance(value, Mapping):
            out |= _flat(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


def _loop_of_0_1(content: Mapping[str, Any], curve: Path) -> dict[str, Any]:
    """The ``loop`` entry for a checkpoint written by version 0.1.0, for either kind of run."""
    if "iteration" in content:  # detection: rows of the curve were appended to the curve file
        step, evaluated = content["iteration"], content["evaluated_at"]
        lines = curve.read_text(errors="replace").split("\n")[:-1] if curve.is_file() else []
        rows = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return {
            "step": step,
            "sums": content["sums"],
            "counted": content["counted"],
            "prepared_at": content["averaged_at"],
            "evaluated_at": evaluated,
            "curve": [r for r in rows if r["iteration"] <= (evaluated if "scores" in r else step)],
            "generators": content["generators"],
        }
    # Pre-training derived the position in the epoch from the step and used no global generators.
    return {
        "step": content["step"],
        "sums": [content["sums"]] * len(content["generators"]),
        "counted": content["step"] % (content["steps"] // content["config"]["epochs"]),
        "prepared_at": 0,
        "evaluated_at": 0,
        "curve": content["curve"],
        "generators": [],
    }
