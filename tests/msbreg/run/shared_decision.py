"""The program of each of two gloo processes; started by test_distributed.py."""

import json
import sys
from pathlib import Path

import torch

from msbreg.data.folder import list_images
from msbreg.data.images import unreadable
from msbreg.run import distributed
from msbreg.run.errors import UserError


def main(root: Path, output: Path) -> None:
    """Process 1 would skip other files; both write the decision they received to the output folder."""
    distributed.start(torch.device("cpu"))
    images, rank = list_images(root), distributed.rank()

    def decide() -> tuple[str, ...]:
        return images.paths[:2] if rank == 1 else unreadable(images)

    def refuse() -> None:
        raise UserError("rejected by the main process")

    shared = images.without(distributed.from_main(decide))
    message = ""
    try:
        distributed.from_main(refuse)
    except UserError as error:
        message = str(error)
    distributed.stop()
    result = {"skipped": shared.skipped, "paths": list(shared.paths), "error": message}
    (output / f"{rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
