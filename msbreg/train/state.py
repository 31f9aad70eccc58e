"""What a training can be continued from, bit for bit: the loop's state, generators, the file.

A checkpoint holds what the trainable says changes, and under ``loop`` what the loop keeps: the step,
the sums behind the next row of the curve, the curve itself, and every process's random generators.
"""

import contextlib
import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from msbreg.checkpoints.load import save_checkpoint
from msbreg.run import distributed
from msbreg.run.errors import RunFailed, UserError
from msbreg.run.files import write_atomically
from msbreg.train.health import check_finite

if TYPE_CHECKING:
    from msbreg.train.loop import Trainable

CURVE = "curve.jsonl"


@dataclass
class State:
    """All that the loop itself changes.

    Attributes:
        step: steps done; the next step's number.
        sums, counted: sums of the losses' terms since the last row of the curve, and how many steps.
        prepared_at, evaluated_at: steps after which the last evaluation was prepared and made; 0 is never.
        saved_at: steps after which the last checkpoint was written; None is never.
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
        """Whether the present weights were evaluated."""
        return self.step > 0 and self.evaluated_at == self.step


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of one run, and the curve beside it.

    Attributes:
        path: of the checkpoint file.
        header: step -> entries that say what the checkpoint is; ``kind`` among them.
    """

    path: Path
    header: Callable[[int], Mapping[str, Any]]

    def save(self, trainable: "Trainable", state: State) -> None:
        """Write all that a continuation needs; every process calls it, the first one writes.

        Raises:
            RunFailed: weights are not finite, or the file cannot be written; the one before stays.
        """
        content = trainable.state_dict()
        check_finite(_flat(content), state.step, trainable.advice)
        everyone = distributed.gather_objects((generators(), state.sums))
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
        """Put everything back from the content of a checkpoint; returns what is not as it was, if anything.

        Raises:
            UserError: weights or optimizer belong to something else; the message has the difference.
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
                put_back(loop["generators"][distributed.rank()])
            return None
        state.sums = {name: sum(one[name] for one in sums) / before for name in sums[0]}
        return (
            f"continued on {distributed.world_size()} processes, started on {before}: random draws of "
            "each process differ, and sums over processes may differ in the last bit"
        )

    def write_curve(self, state: State) -> None:
        """Replace the curve's file by the rows so far; the first process writes.

        Raises:
            RunFailed: it cannot be written; the file before stays.
        """
        if not distributed.is_main():
            return
        path = self.path.with_name(CURVE)
        content = "".join(json.dumps(row) + "\n" for row in state.curve)
        write_atomically(path, content.encode())

    @contextlib.contextmanager
    def naming_what_is_left(self, state: State) -> Iterator[None]:
        """Say, when a run fails, which checkpoint it leaves."""
        try:
            yield
        except RunFailed as error:
            left = "No checkpoint was written yet."
            if state.saved_at is not None:
                left = f"{self.path} holds the state after step {state.saved_at}."
            raise RunFailed(f"{error}\n{left}") from error


def require_record(path: Path, resumed: bool) -> None:
    """Refuse a checkpoint whose run left no record: nobody knows what settings it belongs to.

    Raises:
        UserError: there is none.
    """
    if not resumed:
        raise UserError(
            f"{path} exists, but record.json is missing from that folder or belongs to another run.\n"
            "Give another --output, or move the file away."
        )


# ---- Random generators


def generators() -> dict[str, Any]:
    """States of torch's, NumPy's and Python's global generators, in types that load without code."""
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


def put_back(states: Mapping[str, Any]) -> None:
    """Set the global generators to the states of ``generators``."""
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


@contextlib.contextmanager
def fresh_draws(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Torch's generators start from (seed, step, rank) inside, and are put back afterwards."""
    with torch.random.fork_rng([device.index] if device.type == "cuda" else []):
        entropy = np.random.SeedSequence([seed, step, distributed.rank()])
        torch.manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> 1))
        yield


# ---- Inside


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The state dicts of networks, without optimizers, as one level of dotted names."""
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
    """The loop's entries of a checkpoint that version 0.1.0 wrote, for either kind of run."""
    if "iteration" in content:  # a detector: rows of the curve were appended to its file
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
    # Pre-training counted the steps of an epoch by its position, and drew nothing from global generators.
    return {
        "step": content["step"],
        "sums": [content["sums"]] * len(content["generators"]),
        "counted": content["step"] % (content["steps"] // content["config"]["epochs"]),
        "prepared_at": 0,
        "evaluated_at": 0,
        "curve": content["curve"],
        "generators": [],
    }
