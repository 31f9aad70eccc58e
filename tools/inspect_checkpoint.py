"""Show what is in a checkpoint and whether it is trained.

    python tools/inspect_checkpoint.py moco_v2_800ep_pretrain.pth.tar
    python tools/inspect_checkpoint.py dino_full.pth --encoder student --trust-pickle
    python tools/inspect_checkpoint.py --list                    # the known layouts

Prints the file, its layout, which of its networks is used and why, the dropped keys, the input that the
network expects, whether it looks trained, and the next commands. For an unknown layout it prints the
content of the file. No code in the file is run. Exit code 0: a trained backbone that loads; 1: it loads
but looks untrained; 2: it does not load, or the arguments are wrong.
"""

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from msbreg.backbones.vit_architectures import check_backbone_name
from msbreg.run.errors import EXIT_USER_ERROR, UserError, exit_codes
from msbreg.run.inputs import check_checkpoint
from tools.tool_parser import ToolParser


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Raises:
        UserError: a path does not exist, or the options do not go together.
    """
    parser = ToolParser(__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="a checkpoint of any origin")
    parser.add_argument("--encoder", help="the network to use if the file contains several")
    parser.add_argument("--family", help="the layout if the file matches several (see --list)")
    parser.add_argument("--arch", help="expected architecture")
    parser.add_argument(
        "--trust-pickle",
        action="store_true",
        help="also read files that contain objects; they become inert records, and none of their code is run",
    )
    parser.add_argument("--no-features", action="store_true", help="do not run the network")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--list", action="store_true", help="list the known layouts instead")
    options = parser.parse_args(arguments)
    if options.list == bool(options.file):
        parser.error("pass one checkpoint file, or --list for the known layouts")
    if options.arch is not None:
        try:
            check_backbone_name(options.arch)
        except UserError as error:
            parser.error(f"--arch: {error}")
    if options.file:
        try:
            check_checkpoint(str(options.file))
        except UserError as error:
            if options.json:
                print(json.dumps({"error": str(error), "verdict": "not loadable"}))
            raise
    return options


if __name__ == "__main__":  # options and paths are checked before PyTorch is imported
    with exit_codes():
        read_options()

from rich.console import Console
from rich.table import Table

from msbreg.backbones.spec import Normalization, describe_input
from tools.checkpoint_facts import Facts, Request, facts_of, families

Row = tuple[str, ...]
Section = tuple[str, list[Row]]  # a title and its rows; the first column is a label


def sections(facts: Facts) -> Iterator[Section]:
    """The facts as tables."""
    if "file" in facts:
        yield "File", list(_file(facts["file"]))
    if "layout" in facts:
        yield "Network", list(_network(facts["layout"]))
    if facts.get("dropped"):
        yield "Dropped keys", list(_dropped(facts["dropped"]))
    if facts.get("entries"):
        yield "Entries", [(row["entry"] or "(the file)", row["is"]) for row in facts["entries"]]
    if facts.get("keys"):
        yield "Tensors", list(_tensors(facts["keys"]))
    if "norms" in facts:
        yield "BatchNorm layers", list(_norms(facts["norms"]))
    if "features" in facts:
        yield "Features of photographs", list(_features(facts["features"]))


def _file(file: Facts) -> Iterator[Row]:
    yield "path", file["path"]
    yield "container", f"{file['container']}, {file['bytes'] / 2**20:.1f} MiB"
    yield "sha256", file["sha256"]
    if file["stubbed"]:
        yield "not run", ", ".join(file["stubbed"])


def _network(layout: Facts) -> Iterator[Row]:
    others = [name for name in layout["present"] if name != layout["encoder"]]
    yield "family", f"{layout['family']}: {layout['covers']}"
    yield "source", layout["source"]
    yield "used", f"{layout['encoder']} ({layout['why']})"
    yield "also in the file", ", ".join(others) or "no other network"
    yield "architecture", f"{layout['arch']}, {layout['tensors']} tensors"
    yield "input", describe_input(Normalization(**layout["normalization"]))
    if "stride" in layout:
        yield "stride 2 in", f"the {layout['stride']} convolutions"
    if "positions" in layout:
        yield "positions", f"of {layout['image_size']} pixels; other sizes: {layout['positions']}"
    for note in layout["notes"]:
        yield "note", note


def _dropped(dropped: list[Facts]) -> Iterator[Row]:
    yield "keys", "count", "reason", "example"
    for row in dropped:
        yield row["keys"], str(row["count"]), row["reason"], row["example"]


def _tensors(keys: list[Facts]) -> Iterator[Row]:
    yield "entry", "keys", "count", "example", "type"
    for row in keys:
        yield row["entry"] or "(top)", row["keys"], str(row["count"]), row["example"], row["is"]


def _norms(norms: Facts) -> Iterator[Row]:
    of = f"of {norms['layers']}"
    yield "initial weight and bias", f"{norms['affine_initial']} {of}"
    yield "initial running mean", f"{norms['mean_initial']} {of}"
    yield "initial running variance", f"{norms['var_initial']} {of}"
    low, high = norms["batches"] or (0, 0)
    counted = f"{low}" if low == high else f"{low} to {high}"
    yield "batches counted", counted if high else "none, or counters missing"


def _features(features: Facts) -> Iterator[Row]:
    own, twin = features["own"], features["random_twin"]
    yield f"of {own['images']}", "this network", "its random twin"
    for name in ("mean", "std", "cosine", "effective_rank"):
        yield name.replace("_", " "), f"{own[name]:.3g}", f"{twin[name]:.3g}"


def show(parts: Sequence[Section], console: Console) -> None:
    """Print tables on a terminal, and aligned lines otherwise."""
    for title, rows in parts:
        if console.is_terminal:
            table = Table(title=title, title_justify="left", show_header=False)
            for _ in range(max(map(len, rows))):
                table.add_column(overflow="fold")
            for row in rows:
                table.add_row(*row)
            console.print(table, markup=False)
        else:
            print(title, *aligned(rows), "", sep="\n")


def aligned(rows: Sequence[Row]) -> list[str]:
    """Rows as text with columns padded to equal width, except the last."""
    columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if len(row) > i) for i in range(columns)]
    padded = [[cell.ljust(widths[i]) for i, cell in enumerate(row)] for row in rows]
    return [("  " + "  ".join(cells)).rstrip() for cells in padded]


def verdict(facts: Facts) -> Iterator[str]:
    """The final lines: the verdict and the next commands, or the signs of no training."""
    if not facts["signs"]:
        yield "Verdict: trained."
        yield "Next:"
        yield from (f"  {command}" for command in facts["next"])
        return
    yield "Verdict: not trained."
    yield from (f"  ! {sign}" for sign in facts["signs"])
    yield "Scores of these weights would be those of a random or broken network. Use another file."


def without_nan(value: Any) -> Any:
    """Replace non-finite numbers by None, because JSON cannot express them."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = read_options(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    console = Console(highlight=False)
    if options.list:
        rows = families()
        if options.json:
            print(json.dumps(rows, indent=2))
        else:
            header = tuple(rows[0])
            show([("Known layouts", [header, *(tuple(r.values()) for r in rows)])], console)
        return 0
    request = Request(
        path=options.file.expanduser(),
        encoder=options.encoder,
        family=options.family,
        arch=options.arch,
        trust_pickle=options.trust_pickle,
        features=not options.no_features,
    )
    facts = facts_of(request)
    if options.json:
        print(json.dumps(without_nan(facts), indent=2, allow_nan=False))
    else:
        show(list(sections(facts)), console)
        if not facts["error"]:
            print(*verdict(facts), sep="\n")
    if facts["error"]:
        print(f"error: {facts['error']}", file=sys.stderr)
        return EXIT_USER_ERROR
    return int(bool(facts["signs"]))


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except (
        BrokenPipeError
    ):  # `| head` closed the pipe; keep Python from failing when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)
