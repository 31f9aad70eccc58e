"""One of two processes that read batches until one of them cannot; started by test_batches.py."""

import sys
from pathlib import Path

import torch

from msbreg import distributed
from msbreg.errors import UserError
from transfer.scenes.batches import training_batches
from transfer.scenes.mapper import MapperSettings
from transfer.scenes.named import load_scenes


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    distributed.start(cpu)
    scenes = load_scenes("coco:instances.json:images", folder, look_at_images=False)
    rank = distributed.rank()
    stream = training_batches(
        scenes,
        MapperSettings(train_sizes=(12,), train_longest=20),
        batch=2,
        seed=0,
        first=0,
        rank=rank,
        world=2,
        workers=0,
        device=cpu,
    )
    number = 0
    try:
        for number, _ in enumerate(stream, 1):  # noqa: B007 - how many were read
            pass
    except UserError as error:
        (folder / f"{rank}.txt").write_text(f"{number} {error}")
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
