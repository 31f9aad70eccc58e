"""Settings of transfer/detection.py. Imports no PyTorch: see msbreg/run/options.py."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from fvcore.common.config import CfgNode

from msbreg.run.config import flat
from msbreg.run.errors import UserError
from msbreg.run.inputs import check_checkpoint, check_folder, check_output
from msbreg.run.option_types import NO_OPTION
from transfer.detectors.config.supported import check_run
from transfer.detectors.config.yaml_file import read_config

EngineName = Literal["auto", "detectron2", "torchvision"]


@dataclass(frozen=True)
class Config:
    """Settings of a detection run: an R-CNN from Detectron2's yaml, on any backbone."""

    script: ClassVar[str] = "transfer/detection.py"
    harmless: ClassVar[frozenset[str]] = frozenset(
        {"config", "overrides", "trials", "yaml.OUTPUT_DIR", "yaml.MODEL.DEVICE", "yaml.VERSION"}
        | {"yaml.DATALOADER.NUM_WORKERS", "yaml.SOLVER.CHECKPOINT_PERIOD", "yaml.VIS_PERIOD"}
        | {"yaml.TEST.EXPECTED_RESULTS", "strict_data"}
    )
    """Settings that cannot change the numbers; the yaml's settings are compared key by key."""
    not_protocol: ClassVar[frozenset[str]] = frozenset(
        {"encoder", "family", "channels_last"}
        | {"yaml.MODEL.WEIGHTS", "yaml.SEED", "yaml.TEST.EVAL_PERIOD"}
    )

    config: Path
    """Detectron2 yaml file: one in configs/, or your own."""
    checkpoint: str | None = None
    """Backbone checkpoint, whole detector, or ``random`` for the untrained twin (null: the yaml's
    MODEL.WEIGHTS)."""
    data: Path | None = None
    """Folder that contains VOC2007/, VOC2012/, lvis/ or COCO's annotations/ (null: $DETECTRON2_DATASETS, or
    ./datasets)."""
    strict_data: bool = False
    """Fail on unusual annotations that Detectron2 accepts, such as boxes outside their image. By default
    they are counted, and treated as Detectron2 treats them."""
    output: Path | None = None
    """Folder for record.json, curve.jsonl, the checkpoint, predictions, tables and drawings (null: the
    yaml's OUTPUT_DIR)."""
    seed: int = -1
    """Random seed (-1: use the yaml's SEED, or 0 if that is also -1)."""
    trials: int = 1
    """Number of runs, with seeds 0 to N - 1 in OUTPUT/trial-0, ...; OUTPUT/trials.json has their mean and
    spread."""
    name: str = ""
    """Name of the network in tables (empty: its method and architecture)."""
    engine: EngineName = "auto"
    """auto, detectron2 or torchvision; auto is detectron2 if it is installed, otherwise torchvision."""
    eval_only: bool = False
    """Evaluate the detector in --checkpoint without training it."""
    amp: Literal["no", "bf16"] = "no"
    """bf16: train under bfloat16 autocast; the evaluation stays in float32, like Detectron2's."""
    accumulate: int = 1
    """Split each batch (the yaml's IMS_PER_BATCH) into N parts and accumulate their gradients. Takes less
    memory at the same learning rate; as with N processes, padding, BatchNorm and means over regions are
    per part."""
    channels_last: bool = False
    """Use the channels-last memory format; often faster on GPUs."""
    encoder: str | None = None
    """Which network of a checkpoint that has several (null: the one that its family evaluates)."""
    family: str | None = None
    """Layout of the checkpoint, if it matches several (tools/inspect_checkpoint.py --list)."""
    trust_pickle: bool = False
    """Read a checkpoint that contains more than tensors; its code is never run."""
    device: str | None = None
    """auto, cpu, cuda or cuda:N (null: the yaml's MODEL.DEVICE, whose default, cuda, means auto)."""
    workers: int = -1
    """Processes that decode images (-1: the yaml's DATALOADER.NUM_WORKERS)."""
    finished: Literal["error", "skip"] = "error"
    """What to do if the output folder already contains this completed run."""
    overrides: tuple[str, ...] = field(default=(), metadata=NO_OPTION)
    """KEY VALUE ... after the options: override settings of the yaml."""
    yaml: dict[str, Any] = field(default_factory=dict, metadata=NO_OPTION)
    """All settings of the yaml, for the record; filled in when it is read."""

    def __post_init__(self) -> None:
        if not -1 <= self.seed < 2**31:
            raise UserError(f"seed is {self.seed}; expected 0 to 2^31 - 1, or -1 for the yaml's")
        if self.workers < -1:
            raise UserError(f"workers is {self.workers}; expected 0 or more, or -1 for the yaml's")
        for name, value in (("trials", self.trials), ("accumulate", self.accumulate)):
            if value < 1:
                raise UserError(f"{name} is {value}; expected at least 1")
        if self.trials > 1 and self.eval_only:
            raise UserError(
                "--trials repeats the training; with --eval-only all trials would be equal"
            )
        if self.trials > 1 and self.seed != -1:
            raise UserError("--trials uses the seeds 0, 1, ...; omit --seed")

    def check_inputs(self) -> None:
        """Check that the yaml is valid and supported, and that the paths can be used.

        Raises:
            UserError: they are not, or cannot.
        """
        settings = read_config(self.config, self.overrides)
        check_run(settings)
        if self.checkpoint is not None:
            check_checkpoint(self.checkpoint)
        if self.data is not None:
            check_folder(self.data)
        check_output(self.output or Path(settings.OUTPUT_DIR))

    def resolved(self, settings: CfgNode, engine: EngineName) -> "Config":
        """The config for the record: all defaults resolved, and the yaml key by key."""
        device = settings.MODEL.DEVICE if self.device is None else self.device
        return dataclasses.replace(
            self,
            config=Path(self.config.stem),
            overrides=(),
            yaml=flat(settings),
            engine=engine,
            checkpoint=self.checkpoint or settings.MODEL.WEIGHTS,
            output=self.output or Path(settings.OUTPUT_DIR),
            seed=max(settings.SEED, 0) if self.seed == -1 else self.seed,
            workers=settings.DATALOADER.NUM_WORKERS if self.workers == -1 else self.workers,
            device="auto" if self.device is None and device == "cuda" else device,
        )
