"""Run a protocol on a published checkpoint, and check that its published score is reproduced.

    python transfer/calibrate.py --list
    python transfer/calibrate.py knn --checkpoint dino_vitbase16_pretrain.pth --data IMAGENET

The checkpoint is recognized by its published hash, or by its file name. The run is a normal run of the
protocol with the card of the table, in OUTPUT/MODEL-PROTOCOL; calibration.json beside its record has the
comparison.

Exit code 0: all scores are inside their bands (published score plus or minus a tolerance); 1: one is outside,
or not comparable.
"""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from msbreg.run.config import Card
from msbreg.run.errors import UserError
from msbreg.run.inputs import check_checkpoint, check_output
from msbreg.run.options import main, read_options
from transfer.calibration.bands import BANDS, listing, read_bands

Protocol = Literal["knn", "linear", "svm", "detection"]
CARDS = Path(__file__).resolve().parents[1] / "configs"


@dataclass(frozen=True)
class Config:
    """Settings of a calibration: the protocol, the published checkpoint and the data."""

    script: ClassVar[str] = "transfer/calibrate.py"
    first_word: ClassVar[str] = "protocol"

    protocol: Protocol | None = None
    """knn, linear, svm or detection; may also be given as the first word."""
    checkpoint: Path | None = None
    """A published checkpoint of the table (--list)."""
    data: str | None = None
    """The data set of the published score, as the protocol's --data."""
    output: Path = Path("runs/calibrate")
    """Folder for the run."""
    model: str | None = None
    """Name of the checkpoint in the table, if the file was renamed."""
    bands: Path = BANDS
    """Table of published scores."""
    list: bool = False
    """Print the table and exit."""
    family: str | None = None
    """Layout of the checkpoint, if it matches several (null: that of the table)."""
    trust_pickle: bool = False
    """Read a checkpoint that contains more than tensors; its code is never run."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    workers: int = 2
    """Threads that decode images, and processes that fit classifiers."""
    finished: Literal["error", "skip"] = "error"
    """What to do if the output folder already contains this completed run; skip compares its scores."""

    def check_inputs(self) -> None:
        """Check that the table can be read and the paths can be used.

        Raises:
            UserError: it cannot, or they cannot; or an option is missing.
        """
        read_bands(self.bands)
        if self.list:
            return
        for name in ("protocol", "checkpoint", "data"):
            if getattr(self, name) is None:
                raise UserError(
                    f"--{name} is missing; expected PROTOCOL --checkpoint FILE --data DATA, or --list to see "
                    "the table"
                )
        if str(self.checkpoint) == "random":
            raise UserError("checkpoint is random; expected a published checkpoint (--list)")
        check_checkpoint(str(self.checkpoint))
        check_output(self.output)


if __name__ == "__main__":  # options, cards and paths are checked before PyTorch is imported
    OPTIONS = read_options(Config)

import json
from types import ModuleType
from typing import Any

from msbreg.checkpoints.load import load_backbone
from msbreg.run import distributed
from msbreg.run.config import differences, plain
from msbreg.run.errors import EXIT_FAILED
from msbreg.run.files import write_atomically
from msbreg.run.job import log, log_to_terminal
from msbreg.run.options import read_card
from msbreg.run.record import read_record
from transfer import detection, knn, linear, svm
from transfer.calibration.bands import Band, Identified, identify_checkpoint
from transfer.calibration.judgment import Judgment, judge_scores
from transfer.scoring.scores import score_from_dict

SCRIPTS: dict[str, ModuleType] = {"knn": knn, "linear": linear, "svm": svm, "detection": detection}
assert set(SCRIPTS) == set(get_args(Protocol))
FILE = "calibration.json"


def run(config: Config, card: Card = Card()) -> list[Judgment]:  # noqa: B008 - frozen
    """Run the protocol and compare its scores with the bands.

    Raises:
        UserError: the checkpoint is not in the table or has another layout, or as the protocol does.
    """
    log_to_terminal()
    assert config.checkpoint is not None
    assert config.protocol is not None
    checkpoint = config.checkpoint.expanduser()
    found = identify_checkpoint(
        checkpoint, read_bands(config.bands), protocol=config.protocol, model=config.model
    )
    family = _family(config, checkpoint, found.bands[0])
    # The bands of one protocol name one card, except for tables of users.
    cards = sorted({band.card for band in found.bands})
    if len(cards) > 1:
        raise UserError(f"{config.bands} names several cards for one run: {', '.join(cards)}")
    output = config.output / f"{found.bands[0].model}-{config.protocol}"
    of_protocol, of_card = protocol_config(config, cards[0], output=output, family=family)
    with distributed.kept():
        SCRIPTS[config.protocol].run(of_protocol, of_card)
        return distributed.from_main(lambda: _compare(output.expanduser(), found))


def _compare(output: Path, found: Identified) -> list[Judgment]:
    """Compare the scores of a completed run with the bands, and write the comparison beside its record."""
    log.info("the checkpoint is recognized as %s", found.how)
    record = read_record(output)
    assert record is not None
    judgments = judge_scores([score_from_dict(fields) for fields in record["scores"]], found.bands)
    content = {"recognized": found.how, "bands": [plain(each) for each in judgments]}
    write_atomically(output / FILE, json.dumps(content, indent=1).encode())
    return judgments


def _family(config: Config, checkpoint: Path, band: Band) -> str | None:
    """The layout to read the file in; the table's, unless the user gives one.

    Raises:
        UserError: the file, recognized without a hash, has another layout than the table says.
    """
    if config.family is not None or not band.family:
        return config.family
    _, provenance = load_backbone(checkpoint, family=band.family, trust_pickle=config.trust_pickle)
    assert provenance.family == band.family
    return band.family


def protocol_config(
    config: Config, card: str, *, output: Path, family: str | None
) -> tuple[Any, Card]:
    """The settings of the run: the card's, with the checkpoint, the data and the machine."""
    assert config.protocol is not None
    script = SCRIPTS[config.protocol]
    file = CARDS / f"{card}.yaml"
    of_card: Any = (
        script.Config(config=file)
        if config.protocol == "detection"
        else read_card(script.Config, file)
    )
    settings: dict[str, Any] = {
        "checkpoint": str(config.checkpoint),
        "data": Path(config.data or "") if config.protocol == "detection" else config.data,
        "output": output,
        "family": family,
        "trust_pickle": config.trust_pickle,
        "device": config.device,
        "workers": config.workers,
        "finished": config.finished,
    }
    complete = dataclasses.replace(of_card, **settings)
    complete.check_inputs()
    return complete, Card(card, differences(plain(complete), plain(of_card)))


def run_as_script(config: Config, card: Card) -> None:
    """Print the table, or run and print the comparison; exits with code 1 unless all scores are inside."""
    if config.list:
        print(listing(read_bands(config.bands)))
        return
    judgments = run(config, card)
    for judgment in judgments:
        distributed.say_once(judgment.sentence, print)
    if any(judgment.word != "inside" for judgment in judgments):
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main(run_as_script, *OPTIONS)
