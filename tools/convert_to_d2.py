"""Convert the backbone of any checkpoint to Detectron2 or another toolbox.

    python tools/convert_to_d2.py runs/pretrain/checkpoint.pth
    python tools/convert_to_d2.py moco_v2_800ep_pretrain.pth.tar -o moco.pkl
    python tools/convert_to_d2.py checkpoint.pth --to mmseg        # or torchvision, timm, huggingface
    python tools/convert_to_d2.py checkpoint.pth --to safetensors --runs runs

The written file is read back, by the toolbox itself if it is installed, and kept only if its network
computes the same features as the checkpoint. Exit code 0: written; 1: the features differ, or the file
cannot be written; 2: the checkpoint cannot be read or converted, or the arguments are wrong.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import os
import shlex
import signal
from collections.abc import Sequence
from functools import partial
from typing import Any

from msbreg.backbones.architectures import architecture
from msbreg.backbones.vit_architectures import no_resnet
from msbreg.run.errors import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    RunFailed,
    UserError,
    exit_codes,
)
from msbreg.run.inputs import check_checkpoint
from tools.tool_parser import ToolParser

TARGET_NAMES = ("detectron2", "torchvision", "timm", "mmseg", "huggingface", "safetensors")
ENDINGS = (".pth", ".tar", ".pt", ".ckpt", ".pkl", ".bin", ".torch", ".pyth", ".safetensors")


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: a path does not exist, or the options do not go together.
    """
    parser = ToolParser(__doc__)
    parser.add_argument("checkpoint", type=Path, help="a checkpoint of any origin")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        help="file, or folder for huggingface; the suffix selects the format if there are two "
        "(default: next to the checkpoint, such as CHECKPOINT_d2.pkl)",
    )
    parser.add_argument(
        "--to", choices=TARGET_NAMES, default="detectron2", help="the toolbox to write for"
    )
    parser.add_argument("--encoder", help="the network to use if the file contains several")
    parser.add_argument("--family", help="the layout if the file matches several")
    parser.add_argument("--arch", help="expected architecture, a ResNet")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="also read files that contain objects; they become inert records, and none of their code is run",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument(
        "--runs",
        type=Path,
        help="folder of runs whose scores are listed on the model card of --to safetensors",
    )
    options = parser.parse_args(arguments)
    if options.arch is not None:
        if reason := no_resnet(options.arch):
            raise UserError(f"--arch: {reason}")
        try:
            architecture(options.arch)
        except UserError as error:
            raise UserError(f"--arch: {error}") from error
    check_checkpoint(str(options.checkpoint))
    if options.runs and options.to != "safetensors":
        raise UserError(
            "--runs fills the model card, which only --to safetensors writes; omit --runs or change --to"
        )
    return options


if __name__ == "__main__":  # options and paths are checked before PyTorch is imported
    with exit_codes():
        read_options()

from msbreg.backbones.spec import Provenance
from msbreg.checkpoints.convert.certificate import ConversionFailed
from msbreg.checkpoints.convert.convert import TARGETS, Conversion, convert
from msbreg.checkpoints.convert.model_card import Card, Score, Training, model_card
from msbreg.checkpoints.convert.target import STAGES, Reader, Target
from msbreg.checkpoints.load import load_resnet
from msbreg.run.record import read_record
from transfer.detectors import detectron2_engine as with_detectron2
from transfer.report.collection import Collection, collect
from transfer.report.score_tables import data_name
from transfer.segmenters import segmenter_engine


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = read_options(arguments)
        target = TARGETS[options.to]
        checkpoint = options.checkpoint.expanduser()
        output = options.output or default_output(checkpoint, target)
        backbone, provenance = load_resnet(
            checkpoint,
            arch=options.arch,
            encoder=options.encoder,
            family=options.family,
            trust_pickle=options.trust_pickle,
        )
        conversion = convert(
            backbone,
            provenance,
            output.expanduser(),
            target,
            readers=readers_of(target),
            card=card_of(checkpoint, provenance, options.runs) if target.has_card else None,
            overwrite=options.overwrite,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except RunFailed as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except ConversionFailed as error:
        print(f"failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted; nothing was written.", file=sys.stderr)
        return EXIT_INTERRUPTED
    print("\n".join(summary_lines(conversion, provenance, target)))
    return 0


def default_output(checkpoint: Path, target: Target) -> Path:
    """The checkpoint's path with its suffixes (such as .pth.tar) replaced by the target's ending."""
    stem = checkpoint
    while stem.suffix in ENDINGS:
        stem = stem.with_suffix("")
    return stem.with_name(stem.name + target.ending)


def readers_of(target: Target) -> tuple[Reader, ...]:
    """Readers of toolboxes that msbreg may not import."""
    if target.name == "detectron2" and with_detectron2.available():
        return (with_detectron2.read,)
    if target.name == "mmseg" and segmenter_engine.mmseg_is_installed():
        return (segmenter_engine.read_converted,)
    return ()


# ---------------------------------------------------------------------------------- the model card


def card_of(checkpoint: Path, provenance: Provenance, runs: Path | None) -> Card:
    """The model card with everything filled in that is known before the conversion."""
    scores = scores_of(collect([runs.expanduser()]), provenance.sha256) if runs else ()
    return partial(model_card, scores=scores, training=training_of(checkpoint, provenance.sha256))


def scores_of(collection: Collection, sha256: str) -> tuple[Score, ...]:
    """Scores from completed evaluations of these weights.

    Raises:
        UserError: there are none.
    """
    scores = [
        Score(
            f"{score.name} ({score.rules})",
            f"{data_name(score.data)}, {score.n} images",
            score.value,
            score.stderr,
            run.digest,
        )
        for run in collection.evaluations
        if run.network is not None and run.network["sha256"] == sha256
        for score in run.scores
    ]
    if not scores:
        raise UserError(
            f"--runs contains no completed evaluation of this checkpoint (sha256 {sha256[:12]}...); "
            "pass the folder of its runs, or omit --runs"
        )
    return tuple(scores)


def training_of(checkpoint: Path, sha256: str) -> Training | None:
    """The pre-training of the checkpoint, if the record next to it describes this checkpoint."""
    record = read_record(checkpoint.parent)
    if record is None or record.get("results", {}).get("sha256") != sha256:
        return None
    return Training(
        command=record["command"],
        card=record["card"],
        commit=record["environment"].get("commit") or "unknown",
        settings=record["config"],
    )


# ------------------------------------------------------------------------------------------- output


def summary_lines(conversion: Conversion, provenance: Provenance, target: Target) -> list[str]:
    """The summary: what was converted, how closely it agrees, what to set, and the next command."""
    certificate = conversion.certificate
    normalization = provenance.normalization
    lines = [
        f"Source     {provenance.encoder} of {provenance.source} ({provenance.family})",
        f"           {provenance.arch}, {provenance.tensors} tensors, sha256 {provenance.sha256[:12]}",
        f"           {normalization.channels}, stride 2 in the {provenance.stride} convolutions",
        *(f"           note: {note}" for note in provenance.notes),
        *(f"           WARNING: {warning}" for warning in provenance.warnings),
        f"Written    {conversion.output}",
        *(f"           {path}" for path in conversion.sidecars),
        f"Certified  largest relative difference per stage, in float64 "
        f"(allowed: {certificate['tolerance']:.0e})",
        *(f"           {line}" for line in _errors(certificate)),
        "Set",
        *(
            f"  {line}"
            for line in target.fragment(certificate["settings"], conversion.output).splitlines()
        ),
    ]
    if target.name == "detectron2":
        lines += [
            "Next",
            "  in Detectron2: python tools/train_net.py --config-file FILE, with these lines in FILE",
        ]
    if target.name == "safetensors":
        weights = shlex.quote(str(conversion.output))
        lines += ["Next", f"  python transfer/knn.py --checkpoint {weights} --output runs/knn"]
    return lines


def _errors(certificate: dict[str, Any]) -> list[str]:
    """Two lines per reader: the differences in float64 and in float32."""
    width = max(len(reading["reader"]) for reading in certificate["readings"])
    lines = [f"{'read by':<{width}}  tensors  " + "".join(f"{s:>9}" for s in STAGES)]
    for reading in certificate["readings"]:
        count = f"{reading['tensors']}/{reading['tensors']}"
        for stages in reading["errors"].values():
            for name, precision, shown in (
                (reading["reader"], "relative", count),
                ("  in float32", "float32", ""),
            ):
                numbers = "".join(f"{stages[stage][precision]:9.1e}" for stage in STAGES)
                lines.append(f"{name:<{width}}  {shown:<7}  {numbers}")
    return lines


if __name__ == "__main__":
    # Handle SIGTERM like Ctrl-C, so that partially written files are removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = main()
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # `| head` closed the pipe; keep Python from failing when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
