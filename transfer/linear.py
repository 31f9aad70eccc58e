"""Linear classification with frozen features.

Two routes, named by the card:

- ``cached``: the features of each image are extracted once, without augmentation, and reused in all epochs.
- ``streamed``: augmented images pass through the frozen network in every epoch, as in published protocols.

Many heads are trained at once: all combinations of learning rates, weight decays and normalizations. One of
them is chosen on held-out training images (BYOL, arXiv 2006.07733, appendix C.1). With the cached route, the
chosen head is then trained again on all training images; with the streamed route, where that would take as
long again, it is scored as it is.
"""

import math
import sys
from pathlib import Path
from typing import Any

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.options import main, read_options
from transfer.frozen.linear.linear_config import Config

if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

from torch import Tensor

from msbreg.data.sources import data_name
from msbreg.data.transforms import EvaluationTransform
from msbreg.run import distributed
from msbreg.run.job import Job, log
from transfer.frozen.evaluation import (
    Labeled,
    accuracy_scores,
    evaluate,
    labeled_images,
    labeled_splits,
)
from transfer.frozen.linear.head_choice import ChosenHead, head_names
from transfer.frozen.linear.head_phases import CHECKPOINT
from transfer.frozen.linear.linear_cached import fit_cached
from transfer.frozen.linear.linear_streamed import fit_streamed
from transfer.frozen.linear_probe import FILE, LinearProbe, network_identity, save_probe
from transfer.scoring.scores import DataId
from transfer.verdicts.measured import record_scores


def run(config: Config, card: Card = Card()) -> dict[str, Any]:  # noqa: B008 - frozen
    """Run the evaluation and return its results; accuracies are in percent."""
    route = {"cached": _cached, "streamed": _streamed}[config.route]
    return evaluate("linear", config, card, route, resume_file=CHECKPOINT)


def _cached(config: Config, job: Job) -> dict[str, Any]:
    """Extract the features of both splits; the rest is done by the main process."""
    job.record.resolve(augmentation=None)
    fitted, tested = labeled_splits(config, job)
    return distributed.from_main(
        lambda: _results(config, job, tested, fit_cached(config, job, fitted, tested))
    )


def _streamed(config: Config, job: Job) -> dict[str, Any]:
    """Train all heads on augmented images in all processes; score the chosen one."""
    assert config.data is not None
    train_images, test_images = labeled_images(config, job).values()
    chosen = fit_streamed(config, job, train_images, test_images)
    identity = DataId(data_name(config.data), config.val_split, test_images.fingerprint)
    return _results(config, job, Labeled(test_images, identity), chosen)


def _results(config: Config, job: Job, tested: Labeled, chosen: ChosenHead) -> dict[str, Any]:
    """Write the chosen head, and score it on the test split."""
    if chosen.layer is not None and distributed.is_main():
        _save_probe(job, chosen.layer, tested)
    choice = chosen.choice
    name = head_names(config)[choice.head]
    several = len(choice.held_out_top1) > 1
    top1, *top5 = accuracy_scores(
        chosen.outputs,
        tested,
        name=config.head,
        rules={
            "linear": "linear layer on ",
            "attentive": f"attentive probe with {config.queries} queries on ",
        }[config.head]
        + ("frozen features, " if config.route == "cached" else "features of augmented images, ")
        + ("learning rate chosen on held-out training images" if several else "one learning rate"),
    )
    record_scores(job, (top1, *top5))
    rates = config.learning_rates
    rate = rates[choice.head // (len(config.weight_decays) * len(config.norms))]
    results: dict[str, Any] = {
        "top1": top1.value,
        "top1_stderr": top1.stderr,
        **({"top5": top5[0].value} if top5 else {}),
        "learning_rate": rate,
        "head": name,
        "held_out_top1": choice.held_out_top1,
    }
    log.info("top-1: %.2f %% with learning rate %s", top1.value, name)
    chance = math.log(len(tested.images.classes))  # the loss of equal scores for all classes
    if chosen.final_loss > 2 * chance:
        job.warn(
            f"the loss of the last epoch is {chosen.final_loss:.3g}, and that of equal scores for all "
            f"classes is {chance:.3g}: the head diverged. Give lower --learning-rates"
        )
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        job.warn(f"the chosen learning rate {rate:g} is at the end of the list; extend the list")
    return results


def _save_probe(job: Job, layer: tuple[Tensor, Tensor], tested: Labeled) -> None:
    """Write the chosen head, to be applied to other images by transfer/robustness.py."""
    record = job.record.content
    probe = LinearProbe(
        weight=layer[0].numpy(),
        bias=layer[1].numpy(),
        classes=tested.images.classes,
        network=network_identity(record["network"]),
        representation=record["representation"],
        transform=EvaluationTransform(**record["transform"]),
    )
    save_probe(job.output / FILE, probe)


if __name__ == "__main__":
    main(run, *OPTIONS)
