"""Depth from frozen features: a linear layer on the last stage of a dilated ResNet.

On NYU-v2, a folder of images and depth maps, or the embedded digits, whose depth depends on what they are.

The metrics are BYOL's (arXiv 2006.07733, D.6), of totals over all scored pixels. BYOL's own network, which
fine-tunes the backbone with up-projection blocks and the berHu loss (Laina et al., arXiv 1606.00373), is not
implemented: its scores are not comparable with those of this probe. After an interruption the same command
continues from the last checkpoint.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import Interrupted, UserError
from msbreg.run.options import main, read_options
from transfer.frozen.frozen_config import SplitConfig
from transfer.segmenters.segmentation_config import DepthOptions

EMBEDDED = "digits"


@dataclass(frozen=True)
class Config(SplitConfig):
    """Settings of the linear depth probe: trained on one split of DATA, scored on another."""

    script: ClassVar[str] = "transfer/depth.py"
    harmless: ClassVar[frozenset[str]] = frozenset({"save_every", "loading"})

    data: str | None = None
    """nyu_depth_v2_labeled.mat with splits.mat beside it, a folder with images/, depths/ and SPLIT.txt, or
    digits (null: the embedded digits)."""
    val_split: str = "test"
    """Split to score."""
    output: Path = Path("runs/depth")
    """Folder for record.json, log.txt, curve.jsonl and the checkpoint."""
    output_stride: Literal[4, 8, 16, 32] = 16
    """Stride of c5; stages without their stride are dilated instead."""
    depth: DepthOptions = field(default_factory=DepthOptions)
    save_every: int = 500
    """Iterations between checkpoints."""
    loading: int = 2
    """Processes that decode training images; 0 decodes in the training process."""

    def __post_init__(self) -> None:
        super().__post_init__()
        d = self.depth
        scored = d.scored or (0, 1, 0, 1)
        for name, valid, value, expected in (
            ("size", min(d.size) >= 1, list(d.size), "two sides of at least 1"),
            (
                "crop",
                all(1 <= c <= s for c, s in zip(d.crop, d.size, strict=True)),
                list(d.crop),
                f"two sides of at most {list(d.size)}, the size",
            ),
            ("flip", 0 <= d.flip <= 1, d.flip, "a probability"),
            ("farthest", d.farthest > 0, d.farthest, "meters above 0"),
            (
                "scored",
                0 <= scored[0] < scored[1] and 0 <= scored[2] < scored[3],
                list(scored),
                "first row < end row, first column < end column",
            ),
            ("learning_rate", d.learning_rate > 0, d.learning_rate, "a number above 0"),
            ("iterations", d.iterations >= 1, d.iterations, "at least 1"),
            ("batch_size", d.batch_size >= 1, d.batch_size, "at least 1"),
        ):
            if not valid:
                raise UserError(f"depth.{name} is {value}; expected {expected}")
        if min(self.save_every, self.loading) < 0:
            raise UserError(
                f"save_every is {self.save_every} and loading {self.loading}; expected 0 or more"
            )

    def check_data(self, data: str) -> None:
        if data != EMBEDDED and not Path(data).expanduser().exists():
            raise UserError(
                f"data {data!r} does not exist; expected nyu_depth_v2_labeled.mat, a folder with "
                "images/, depths/ and SPLIT.txt, or digits"
            )


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import functools
import os
from collections.abc import Iterator

import numpy as np

from msbreg.data.images import in_order
from msbreg.data.segmentation.depth_maps import NYU, DepthMaps, NYUDepths
from msbreg.data.segmentation.digit_depths import open_depths
from msbreg.run import distributed
from msbreg.run.failures import Agreement
from msbreg.run.job import Job, log, seed_everything
from msbreg.run.progress import Progress
from msbreg.train.loop import Plan, train
from msbreg.train.state import Checkpoint, State, require_same_data, unfinished_run
from transfer.frozen.evaluation import evaluate, units_of
from transfer.frozen.frozen_network import load_network
from transfer.scoring.scores import DataId, Score
from transfer.segmenters.linear_depth import (
    ROW_EVERY,
    DepthProbe,
    DepthScores,
    DepthTraining,
    depth_totals,
    predicted_depth,
    scored_window,
    training_batches,
)
from transfer.segmenters.patch_memory import dilated
from transfer.verdicts.measured import Measured, measured, record_scores
from transfer.verdicts.outcome_kinds import ratio_outcomes

CHECKPOINT = "checkpoint.pth"
KIND = "msbreg-depth"
READ_AHEAD = 32


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Train and evaluate the probe and return the results."""
    return evaluate("depth", config, card, _run, resume_file=CHECKPOINT)


def _run(config: Config, job: Job) -> dict[str, Any]:
    fitted, tested = _data(config, job)
    backbone, provenance = load_network(config, job)
    seed_everything(config.seed)
    network = DepthProbe(dilated(backbone, config.output_stride), provenance.normalization)
    distributed.synchronize_batch_norm(network.head, job.device)
    network.to(job.device)
    job.record.content["selection"] = "fixed schedule (no selection)"

    # ---- Train the layer.
    training = DepthTraining(network, config.depth)
    header = {"kind": KIND, "data": job.record.content["data"]}
    state = State()
    checkpoint = Checkpoint(job.output / CHECKPOINT, lambda step: header | {"iteration": step})
    _resume(training, state, checkpoint, header, job)
    found: list[DepthScores] = []

    def score(iteration: int) -> dict[str, Any] | None:
        found.append(_evaluate(network, tested, config, job))
        return (
            {"iteration": iteration, "scores": numbers(found[-1])}
            if distributed.is_main()
            else None
        )

    steps = config.depth.iterations
    plan = Plan(
        steps=steps,
        row_every=ROW_EVERY,
        save_every=config.save_every,
        read_every=1 if job.device.type == "cpu" else ROW_EVERY,
        seed=config.seed,
    )
    batches = training_batches(
        fitted, config.depth, seed=config.seed, first=state.step, workers=config.loading
    )
    job.stop.watched = True  # from here on: save first, then stop
    with Progress(
        "training", steps, first=state.step, per_step=config.depth.batch_size, unit="images"
    ) as progress:
        train(
            training,
            batches,
            plan,
            state,
            checkpoint,
            job=job,
            progress=progress,
            evaluate=score,
            describe=lambda losses: f"loss {losses['loss']:.3f}",
        )
    if not found:  # killed after the last evaluation, before its scores were recorded
        score(state.step)

    # ---- Record the scores.
    record_scores(job, scores_of(found[-1], tested, config))
    results = numbers(found[-1])
    log.info(
        "%.1f / %.1f / %.1f %% within 1.25, 1.25^2, 1.25^3; rms %.3f m, rel %.3f",
        *found[-1].within, found[-1].rms, found[-1].rel,
    )  # fmt: skip
    return results | {"iterations": steps, "checkpoint": CHECKPOINT}


def _data(config: Config, job: Job) -> tuple[DepthMaps, DepthMaps]:
    """Both splits, which must not share images; what they are goes into the record."""
    assert config.data is not None
    names = (config.train_split, config.val_split)
    splits = {name: open_depths(config.data, name) for name in names}
    fitted, tested = splits.values()
    files = [{os.path.realpath(s.name(i)) for i in range(len(s))} for s in (fitted, tested)]
    if both := files[0] & files[1]:
        raise UserError(
            f"{len(both)} images are in both splits, such as {min(both)}; expected disjoint splits"
        )
    job.record.content["data"] = {
        name: {"images": len(source), "fingerprint": source.fingerprint}
        for name, source in splits.items()
    }
    for name, source in splits.items():
        if isinstance(source, NYUDepths) and len(source) != NYU[name].images:
            job.warn(
                f"NOT THE PUBLISHED DATA SET: {name} has {len(source)} images; expected {NYU[name].images}"
            )
    return fitted, tested


def _resume(
    training: DepthTraining, state: State, checkpoint: Checkpoint, header: dict[str, Any], job: Job
) -> None:
    """Continue an interrupted run with the same settings and data."""
    before = unfinished_run(checkpoint.path, KIND, job)
    if not before:
        return
    require_same_data(checkpoint.path, before, header["data"])
    if warning := checkpoint.restore(training, state, before):
        job.warn(warning)
    log.info("continuing after iteration %d", state.step)


def _evaluate(network: DepthProbe, tested: DepthMaps, config: Config, job: Job) -> DepthScores:
    """Each process predicts every world-th image; the totals are added up."""
    network.eval()
    mine = range(distributed.rank(), len(tested), distributed.world_size())
    by_image = np.zeros((len(tested), 6))
    with Agreement(), Progress("predicting", len(mine), unit="images") as progress:
        pairs = _pairs(tested, mine, config.workers)
        for number, (i, (image, truth)) in enumerate(zip(mine, pairs, strict=True), 1):
            if job.stop:
                raise Interrupted(
                    f"{job.stop.name} during the evaluation; the same command continues the run."
                )
            part = scored_window(truth.shape, config.depth.scored)
            found = predicted_depth(network, image, config.depth)
            by_image[i] = depth_totals(truth[part], found[part])
            progress.update(number)
    scores = DepthScores(sum(distributed.gather_objects(by_image)))
    if not scores.totals[0]:
        raise UserError(
            f"no scored pixel of {tested.where} has a known depth; expected depths above 0"
        )
    return scores


def _pairs(
    source: DepthMaps, indices: range, threads: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:  # (H, W, 3) uint8 and (H, W) float32
    """Images and their depth maps, read by threads, a few ahead."""

    def read(i: int) -> tuple[np.ndarray, np.ndarray]:
        return source.image(i), source.depth(i)

    for start in range(0, len(indices), READ_AHEAD):
        part = indices[start : start + READ_AHEAD]
        yield from in_order(lambda n, part=part: read(part[n]), len(part), threads=threads)  # type: ignore[misc]


# ---- Results


def numbers(scores: DepthScores) -> dict[str, float]:
    """The metrics by name: percentages, ``rms`` in meters, and ``rel``."""
    first, second, third = scores.within
    return {
        "within_1.25": first,
        "within_1.25^2": second,
        "within_1.25^3": third,
        "rms": scores.rms,
        "rel": scores.rel,
    }


def scores_of(scores: DepthScores, tested: DepthMaps, config: Config) -> list[Measured]:
    """The metrics for tables, which have one decimal: rms in centimeters, rel in percent."""
    assert config.data is not None
    name = "NYU-v2" if isinstance(tested, NYUDepths) else _data_name(config.data)
    data = DataId(name, config.val_split, tested.fingerprint)
    window = config.depth.scored
    part = "whole images"
    if window is not None:
        part = f"rows {window[0]} to {window[1]}, columns {window[2]} to {window[3]}"
    rules = f"linear layer on c5 at stride {config.output_stride}, {part}, totals over the set"
    shared = functools.partial(Score, data=data, rules=rules, n=len(tested))
    names = ("depth ratio < 1.25", "depth ratio < 1.25^2", "depth ratio < 1.25^3")
    named = [
        *(shared(name, value) for name, value in zip(names, scores.within, strict=True)),
        shared("depth rms", 100 * scores.rms, unit="cm", higher_is_better=False),
        shared("depth rel", 100 * scores.rel, higher_is_better=False),
    ]
    units, (pixels, *sums) = units_of(tested), scores.by_image.T
    return [
        measured(
            score,
            ratio_outcomes(score, units, own, pixels, scale=100, root=score.name == "depth rms"),
        )
        for score, own in zip(named, sums, strict=True)
    ]


def _data_name(data: str) -> str:
    return data if data == EMBEDDED else Path(data).resolve().name


if __name__ == "__main__":
    main(run, *OPTIONS)
