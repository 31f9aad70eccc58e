"""Every frozen-feature protocol for one checkpoint and its untrained twins, then the report.

Runs that are finished in the output folder are left as they are, so the same command continues.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.checkpoint import load_backbone
from msbreg.config import Card, main, parse
from msbreg.errors import UserError
from msbreg.job import log, log_to_terminal
from transfer import knn, linear, svm
from transfer.report.render import write_report

CARDS = Path(__file__).resolve().parents[1] / "configs"
PROTOCOLS = {"knn": knn, "linear": linear, "svm": svm}


@dataclass(frozen=True)
class Config:
    """What to evaluate and where to put it."""

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
    random_seeds: int = 3
    """Untrained twins, with seeds 0, 1, ...; their spread shows what is luck."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 2
    """Threads that decode images, and processes that fit classifiers."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.protocols) - set(PROTOCOLS))
        if unknown or not self.protocols:
            raise UserError(
                f"protocols is {list(self.protocols)}; expected some of {', '.join(PROTOCOLS)}"
            )
        if self.random_seeds < 0:
            raise UserError(f"random_seeds is {self.random_seeds}; expected 0 or more")


def run(config: Config, card: Card = Card()) -> Path:  # noqa: B008 - frozen
    """Run all; returns the report's HTML file."""
    log_to_terminal()
    _, provenance = load_backbone(config.checkpoint)
    networks: list[tuple[str, int]] = [(str(config.checkpoint), provenance.details["seed"])]
    networks += [("random", seed) for seed in range(config.random_seeds)]
    for checkpoint, seed in networks:
        folder = "pretrained" if checkpoint != "random" else f"random-{seed}"
        for name in config.protocols:
            log.info("---- %s of %s", name, folder)
            arguments = [
                *_card(config.cards, name),
                f"--checkpoint={checkpoint}",
                f"--data={config.data}",
                f"--output={config.output / folder / name}",
                f"--seed={seed}",
                f"--arch={provenance.arch}",
                f"--device={config.device}",
                f"--workers={config.workers}",
                f"--image_size={provenance.image_size}",
                "--finished=skip",
            ]
            protocol = PROTOCOLS[name]
            protocol.run(*parse(protocol.Config, arguments))
    found = [config.output]
    if (config.checkpoint.parent / "record.json").is_file():
        found.append(config.checkpoint.parent)  # the curves of its pre-training
    return write_report(found, config.output / "report")


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


if __name__ == "__main__":
    main(Config, run)
