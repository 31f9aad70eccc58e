"""Run every protocol on one checkpoint and its untrained twins, and write a report.

Completed runs in the output folder are skipped, so the same command continues an interrupted suite.
The report is updated after each run.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.inputs import check_checkpoint, check_output
from msbreg.run.options import main, parse, read_options
from transfer.detectors.config.supported import check_run
from transfer.detectors.config.yaml_file import read_config

CARDS = Path(__file__).resolve().parents[1] / "configs"
PROTOCOLS = ("knn", "linear", "svm", "logistic", "segmentation")
# Sets whose published score is the mean over classes (BYOL, arXiv 2006.07733, D.1).
MEAN_PER_CLASS = ("aircraft", "caltech101", "flowers102", "pets")
DEFAULT_CHECKPOINT = Path("runs/pretrain/checkpoint.pth")


@dataclass(frozen=True)
class Config:
    """Settings of a suite: what to evaluate, and where to write the runs and the report."""

    script: ClassVar[str] = "transfer/suite.py"

    checkpoint: Path = DEFAULT_CHECKPOINT
    """The checkpoint; its untrained twins have the same architecture and input."""
    data: str | None = None
    """digits, or a folder with the layout that each protocol expects (null: the embedded digits)."""
    output: Path = Path("runs/suite")
    """Folder for the runs (one per network and protocol) and report/."""
    protocols: tuple[str, ...] = ("knn", "linear", "svm")
    """Which protocols to run on the data: knn, linear, svm, logistic, segmentation."""
    fine_grained: tuple[str, ...] = ()
    """Data sets for logistic regression, such as pets:FOLDER, each with its published splits."""
    robustness: tuple[str, ...] = ()
    """Test sets for the linear probe of the data, which must be ImageNet: imagenet-a:FOLDER and others."""
    cards: str | None = None
    """Use the cards configs/CARDS_PROTOCOL.yaml (null: digits for the embedded digits, each
    protocol's defaults for other data)."""
    detectors: tuple[str, ...] = ()
    """Detectors to fine-tune: cards configs/NAME.yaml, such as digits_voc_c4."""
    random_seeds: int = 3
    """Number of untrained twins, with seeds 0, 1, ...; their spread shows the variation between seeds."""
    random_detectors: int = 1
    """Number of untrained twins to fine-tune detectors from; each takes as long as the checkpoint does."""
    encoder: str | None = None
    """Which network of a checkpoint that has several (null: the one that its family evaluates)."""
    family: str | None = None
    """Layout of the checkpoint, if it matches several (tools/inspect_checkpoint.py --list)."""
    trust_pickle: bool = False
    """Read a checkpoint that contains more than tensors; its code is never run."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int | None = None
    """Threads that decode images, and processes that fit classifiers (null: 2, and for detectors the
    card's DATALOADER.NUM_WORKERS)."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.protocols) - set(PROTOCOLS))
        if unknown or not self.protocols:
            raise UserError(
                f"protocols is {list(self.protocols)}; expected some of {', '.join(PROTOCOLS)}"
            )
        if min(self.random_seeds, self.random_detectors) < 0:
            raise UserError(
                f"random_seeds is {self.random_seeds} and random_detectors {self.random_detectors}; "
                "expected 0 or more"
            )
        if self.robustness and "linear" not in self.protocols:
            raise UserError(
                f"robustness is {list(self.robustness)}, but protocols is {list(self.protocols)}; expected "
                "linear among them, which trains the probe"
            )
        for name in self.detectors:
            _check_detector(name)

    def check_inputs(self) -> None:
        """Check that the cards exist and the paths can be used.

        Raises:
            UserError: they do not, or cannot.
        """
        from msbreg.data.sources import (
            EMBEDDED,
            check_source,
            data_root,
            split_layout,
        )  # imports OpenCV
        from msbreg.data.voc import find_voc

        check_checkpoint(str(self.checkpoint))
        check_output(self.output)
        for name in self.protocols:
            _card(self.which_cards, name)
        _check_more_data(self)
        if self.data is None or self.data in EMBEDDED:
            return
        check_source(self.data)
        _, folder = split_layout(self.data)
        if "svm" in self.protocols:
            try:
                find_voc(data_root(folder, "voc"))
            except UserError as error:
                raise UserError(
                    f"{error}\nThe SVM needs this layout; without it, use --protocols '[knn, linear]'"
                ) from error

    @property
    def which_cards(self) -> str:
        """Prefix of the cards' file names; empty for each protocol's defaults."""
        if self.cards is not None:
            return self.cards
        return "digits" if self.data in (None, "digits") else ""


def _check_more_data(config: Config) -> None:
    """Check the data sets of logistic regression and of robustness before any protocol runs."""
    from msbreg.data.classification.imagenet_variants import VARIANTS
    from msbreg.data.sources import check_source, recognized, split_layout  # imports OpenCV

    for option, given, known in (
        ("fine_grained", config.fine_grained, tuple(fine_grained_layouts())),
        ("robustness", config.robustness, tuple(VARIANTS)),
    ):
        layouts = [split_layout(data)[0] for data in given]
        if not set(layouts) <= set(known) or len(set(layouts)) < len(layouts):
            raise UserError(
                f"{option} is {list(given)}; expected LAYOUT:FOLDER with different ones of {', '.join(known)}"
            )
        for data in given:
            check_source(data)
    if config.robustness:
        layout, folder = split_layout(config.data or "digits")
        layout = layout or recognized(Path(folder).expanduser()) or folder
        if layout != "imagenet":
            raise UserError(
                f"robustness is {list(config.robustness)}, which needs a linear probe of ImageNet, but data "
                f"is {config.data or 'digits'}; expected --data imagenet:FOLDER"
            )


def fine_grained_layouts() -> dict[str, list[str]]:
    """Layout of a fine-grained data set -> the options of transfer/logistic.py for it."""
    from msbreg.data.classification.cifar import CIFAR  # imports OpenCV
    from msbreg.data.classification.fine_grained import FINE_GRAINED

    published = {name: one.published for name, one in FINE_GRAINED.items()} | CIFAR
    found = {}
    for layout, splits in published.items():
        options = [f"--train_split={'train' if 'train' in splits else 'trainval'}"]
        options += ["--selection_split=val"] if "val" in splits else []
        options += ["--metric=mean_per_class"] if layout in MEAN_PER_CLASS else []
        found[layout] = [f"--config={CARDS / 'fine_grained_logistic.yaml'}", *options]
    return found


def _check_detector(name: str) -> None:
    """Check a detector's card before any protocol runs."""
    file = _yaml(name)
    try:
        settings = read_config(file)
    except UserError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"detectors: {name} is not a detector card ({reason}).\n"
            f"Expected some of: {', '.join(_detector_cards())}"
        ) from error
    check_run(settings)


def _yaml(name: str) -> Path:
    """The file of a detector's card."""
    file = CARDS / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(_detector_cards())
        raise UserError(f"card {file} does not exist; expected one of: {known}")
    return file


def _detector_cards() -> list[str]:
    """Names of the cards that configure a detector."""
    return sorted(f.stem for f in CARDS.glob("*.yaml") if "META_ARCHITECTURE" in f.read_text())


def _card(cards: str, protocol: str) -> list[str]:
    """The arguments that select a protocol's card."""
    if not cards:
        return []
    file = CARDS / f"{cards}_{protocol}.yaml"
    if not file.is_file():
        known = sorted({f.stem.rpartition("_")[0] for f in CARDS.glob(f"*_{protocol}.yaml")})
        raise UserError(
            f"card {file} does not exist; cards is {cards!r}, expected one of: {', '.join(known)}"
        )
    return [f"--config={file}"]


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import statistics
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from msbreg.backbones.vit_architectures import no_resnet
from msbreg.checkpoints.load import load_backbone
from msbreg.data.sources import split_layout
from msbreg.run.job import log, log_to_terminal
from msbreg.run.record import read_record
from transfer import detection, knn, linear, logistic, robustness, segmentation, svm
from transfer.report.render import write_report
from transfer.scoring.scores import Score, score_from_dict

SCRIPTS = {
    "knn": knn,
    "linear": linear,
    "svm": svm,
    "logistic": logistic,
    "robustness": robustness,
    "segmentation": segmentation,
}


def run(config: Config, card: Card = Card()) -> Path:  # noqa: B008 - frozen
    """Run the suite and return the path of the HTML report."""
    log_to_terminal()
    data = config.data or "digits"
    log.info("suite of %s on %s", config.checkpoint, data)
    if config.data is None and config.checkpoint != DEFAULT_CHECKPOINT:
        log.warning(
            "no --data was given: %s is evaluated on the EMBEDDED DIGITS, not on data of your own. "
            "Use --data FOLDER, or --data digits to silence this warning",
            config.checkpoint,
        )
    config.check_inputs()
    _, provenance = load_backbone(
        config.checkpoint.expanduser(),
        encoder=config.encoder,
        family=config.family,
        trust_pickle=config.trust_pickle,
    )
    if config.detectors and (reason := no_resnet(provenance.arch)):
        raise UserError(f"detectors is {list(config.detectors)}, but {reason}. Omit --detectors")
    if "segmentation" in config.protocols and (reason := no_resnet(provenance.arch)):
        raise UserError(f"protocols is {list(config.protocols)}, but {reason}. Omit segmentation")
    twins = max(config.random_seeds, config.random_detectors if config.detectors else 0)
    networks: list[tuple[str, int]] = [(str(config.checkpoint), provenance.details.get("seed", 0))]
    networks += [("random", seed) for seed in range(twins)]
    for checkpoint, seed in networks:
        random = checkpoint == "random"
        folder = config.output / (f"random-{seed}" if random else "pretrained")
        same = arguments_of_all(config, checkpoint, seed)
        if not random or seed < config.random_seeds:
            for name, own in tasks(config, folder):
                log.info("---- %s of %s", name, folder.name)
                protocol = SCRIPTS[name.partition("-")[0]]
                arguments = [*own, *same, f"--output={folder / name}"]
                if random:
                    arguments += [f"--twin_of={config.checkpoint}", *_which(config)]
                protocol.run(*parse(protocol.Config, arguments))
                _write_report(config)
        if not random or seed < config.random_detectors:
            for name in config.detectors:
                log.info("---- %s of %s", name, folder.name)
                arguments = [f"--config={_yaml(name)}", *same, f"--output={folder / name}"]
                if data != "digits":
                    arguments.append(f"--data={data}")
                detection.run(*parse(detection.Config, arguments, pairs="overrides"))
                _write_report(config)
    page = _write_report(config)
    print_scores(config.output)
    print(f"report: {page}")
    return page


def _write_report(config: Config) -> Path:
    """Report the runs so far, and the pre-training if its record is next to the checkpoint."""
    found = [config.output]
    if (config.checkpoint.parent / "record.json").is_file():
        found.append(config.checkpoint.parent)
    return write_report(found, config.output / "report")


# ---- The table in the terminal


def print_scores(output: Path) -> None:
    """Print the scores of the completed runs: the checkpoint's, and the mean of its untrained twins."""
    rows: dict[tuple[str, str, str], dict[str, list[Score]]] = {}
    for folder in sorted(output.glob("*/*")):
        record = read_record(folder)
        if record is None or record["status"] != "done":
            continue
        network = "untrained" if folder.parent.name.startswith("random-") else "pretrained"
        for score in map(score_from_dict, record.get("scores", [])):
            key = score.name, f"{score.data.name} {score.data.split}", score.rules
            rows.setdefault(key, {}).setdefault(network, []).append(score)
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    table = Table(box=box.SIMPLE if console.is_terminal else None, pad_edge=False)
    for heading in ("score", "data", "pretrained", "untrained", "difference"):
        table.add_column(heading, justify="left" if heading in ("score", "data") else "right")
    for (name, data, _), found in rows.items():
        means = {who: statistics.fmean(s.value for s in scores) for who, scores in found.items()}
        difference = means["pretrained"] - means["untrained"] if len(means) == 2 else None
        table.add_row(
            name,
            data,
            *(_cell(found.get(who, [])) for who in ("pretrained", "untrained")),
            f"{difference:+.1f}" if difference is not None else "",
        )
    console.print(table)


def _cell(scores: list[Score]) -> str:
    """A score with its standard error, or the mean and standard deviation over several seeds."""
    if not scores:
        return ""
    if len(scores) > 1:
        values = [score.value for score in scores]
        return (
            f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f} ({len(values)} seeds)"
        )
    stderr = scores[0].stderr
    return f"{scores[0].value:.1f}" + (f" ± {stderr:.1f}" if stderr is not None else "")


# ---- Arguments of the scripts


def tasks(config: Config, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """PROTOCOL or PROTOCOL-LAYOUT, and the options of the script, of each task of one network.

    Args:
        folder: of the network's runs; robustness uses the probe in ``folder/linear``.
    """
    for name in config.protocols:
        yield name, [*_card(config.which_cards, name), f"--data={config.data or 'digits'}"]
    for data in config.fine_grained:
        layout, _ = split_layout(data)
        yield f"logistic-{layout}", [*fine_grained_layouts()[layout], f"--data={data}"]
    for data in config.robustness:
        layout, _ = split_layout(data)
        yield f"robustness-{layout}", [f"--data={data}", f"--probe={folder / 'linear'}"]


def arguments_of_all(config: Config, checkpoint: str, seed: int) -> list[str]:
    """The options that all scripts share: the network, the device and the workers."""
    arguments = [f"--checkpoint={checkpoint}", f"--seed={seed}", f"--device={config.device}"]
    arguments.append("--finished=skip")
    if config.workers is not None:
        arguments.append(f"--workers={config.workers}")
    return arguments + ([] if checkpoint == "random" else _which(config))


def _which(config: Config) -> list[str]:
    """The options that select a network of the checkpoint."""
    selected = {"encoder": config.encoder, "family": config.family}
    arguments = [f"--{name}={value}" for name, value in selected.items() if value is not None]
    return arguments + (["--trust_pickle=true"] if config.trust_pickle else [])


if __name__ == "__main__":
    main(run, *OPTIONS)
