"""Every protocol for one checkpoint and its untrained twins, then the report.

Runs that are finished in the output folder are left as they are, so the same command continues.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.inputs import check_checkpoint, check_data, check_output
from msbreg.run.options import main, parse, read_options
from transfer.detectors.config.supported import check_run
from transfer.detectors.config.yaml_file import read_config

CARDS = Path(__file__).resolve().parents[1] / "configs"
PROTOCOLS = ("knn", "linear", "svm")


@dataclass(frozen=True)
class Config:
    """What to evaluate and where to put it."""

    script: ClassVar[str] = "transfer/suite.py"

    checkpoint: Path = Path("runs/pretrain/checkpoint.pth")
    """The checkpoint; its untrained twins have the same architecture."""
    data: str = "digits"
    """digits, or a folder that has every protocol's layout."""
    output: Path = Path("runs/suite")
    """Folder for one run of each protocol and network, and report/."""
    protocols: tuple[str, ...] = ("knn", "linear", "svm")
    """Which protocols."""
    cards: str = "digits"
    """Cards configs/CARDS_PROTOCOL.yaml; empty takes each protocol's defaults."""
    detectors: tuple[str, ...] = ()
    """Detectors to fine-tune: cards configs/NAME.yaml, such as digits_voc_c4."""
    random_seeds: int = 3
    """Untrained twins, with seeds 0, 1, ...; their spread shows what is luck."""
    random_detectors: int = 1
    """Untrained twins that detectors are fine-tuned from; each costs as much as a pre-trained one."""
    encoder: str | None = None
    """Which network of a checkpoint that holds several (null: the one that its family evaluates)."""
    family: str | None = None
    """Layout of the checkpoint, where it fits more than one (tools/inspect_checkpoint.py --list)."""
    trust_pickle: bool = False
    """Read a checkpoint that holds more than tensors; none of its code is run in any case."""
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
        for name in self.detectors:
            _check_detector(name)

    def check_inputs(self) -> None:
        """That the cards are there and the paths can be used.

        Raises:
            UserError: they are not.
        """
        from msbreg.data.sources import EMBEDDED  # OpenCV, which only this check needs

        check_checkpoint(str(self.checkpoint))
        check_data(self.data, EMBEDDED)
        check_output(self.output)
        for name in self.protocols:
            _card(self.cards, name)


def _check_detector(name: str) -> None:
    """That a card is a detector's and can be followed: found out before the protocols run, not after."""
    file = _yaml(name)
    try:
        settings = read_config(file)
    except UserError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"detectors: {name} is no card of a detector ({reason}).\n"
            f"Expected some of: {', '.join(_detector_cards())}"
        ) from error
    check_run(settings)


def _yaml(name: str) -> Path:
    """The file of a detector's card."""
    file = CARDS / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(_detector_cards())
        raise UserError(f"there is no card {file}; expected one of: {known}")
    return file


def _detector_cards() -> list[str]:
    """Those that say which kind of detector they are."""
    return sorted(f.stem for f in CARDS.glob("*.yaml") if "META_ARCHITECTURE" in f.read_text())


def _card(cards: str, protocol: str) -> list[str]:
    """The arguments that name a protocol's card."""
    if not cards:
        return []
    file = CARDS / f"{cards}_{protocol}.yaml"
    if not file.is_file():
        known = sorted({f.stem.rpartition("_")[0] for f in CARDS.glob(f"*_{protocol}.yaml")})
        raise UserError(
            f"there is no card {file}; cards is {cards!r}, expected one of: {', '.join(known)}"
        )
    return [f"--config={file}"]


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

from msbreg.checkpoints.load import load_backbone
from msbreg.run.job import log, log_to_terminal
from transfer import detection, knn, linear, svm
from transfer.report.render import write_report

SCRIPTS = {"knn": knn, "linear": linear, "svm": svm}


def run(config: Config, card: Card = Card()) -> Path:  # noqa: B008 - frozen
    """Run all; returns the report's HTML file."""
    log_to_terminal()
    _, provenance = load_backbone(
        config.checkpoint.expanduser(),
        encoder=config.encoder,
        family=config.family,
        trust_pickle=config.trust_pickle,
    )
    twins = max(config.random_seeds, config.random_detectors if config.detectors else 0)
    networks: list[tuple[str, int]] = [(str(config.checkpoint), provenance.details.get("seed", 0))]
    networks += [("random", seed) for seed in range(twins)]
    for checkpoint, seed in networks:
        random = checkpoint == "random"
        folder = config.output / (f"random-{seed}" if random else "pretrained")
        same = arguments_of_all(config, checkpoint, seed)
        if not random or seed < config.random_seeds:
            for name in config.protocols:
                log.info("---- %s of %s", name, folder.name)
                protocol = SCRIPTS[name]
                arguments = [
                    *_card(config.cards, name),
                    *same,
                    f"--data={config.data}",
                    f"--output={folder / name}",
                    f"--arch={provenance.arch}",
                    f"--image_size={provenance.image_size}",
                ]
                protocol.run(*parse(protocol.Config, arguments))
        if not random or seed < config.random_detectors:
            for name in config.detectors:
                log.info("---- %s of %s", name, folder.name)
                arguments = [f"--config={_yaml(name)}", *same, f"--output={folder / name}"]
                if config.data != "digits":
                    arguments.append(f"--data={config.data}")
                detection.run(*parse(detection.Config, arguments, pairs="overrides"))
    found = [config.output]
    if (config.checkpoint.parent / "record.json").is_file():
        found.append(config.checkpoint.parent)  # the curves of its pre-training
    return write_report(found, config.output / "report")


def arguments_of_all(config: Config, checkpoint: str, seed: int) -> list[str]:
    """The words that every script understands: which network, and where it is evaluated."""
    words = [f"--checkpoint={checkpoint}", f"--seed={seed}", f"--device={config.device}"]
    words.append("--finished=skip")
    if config.workers is not None:
        words.append(f"--workers={config.workers}")
    return words + ([] if checkpoint == "random" else _which(config))


def _which(config: Config) -> list[str]:
    """The arguments that say which network of a checkpoint is meant."""
    said = {"encoder": config.encoder, "family": config.family}
    words = [f"--{name}={value}" for name, value in said.items() if value is not None]
    return words + (["--trust_pickle=true"] if config.trust_pickle else [])


if __name__ == "__main__":
    main(run, *OPTIONS)
