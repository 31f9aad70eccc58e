"""One of two processes that read images until one process fails; started by test_samples.py."""

import sys
from pathlib import Path

import torch
from torch import nn

from msbreg.data.catalog import load_scenes
from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.run.failures import Agreement
from transfer.detectors.mapper import MapperSettings
from transfer.detectors.predict import predict
from transfer.detectors.rcnn.regions import Detections
from transfer.detectors.samples import training_batches


class Blind(nn.Module):
    """Detects nothing."""

    def forward(self, samples):
        nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
        return [nothing for _ in samples]


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
    )
    number = 0
    try:
        while True:
            with Agreement():
                next(stream)
            number += 1
    except UserError as error:
        (folder / f"{rank}.txt").write_text(f"{number} {error}")
    try:
        predict(Blind(), scenes, MapperSettings(test_size=12, test_longest=20))
    except UserError as error:
        (folder / f"{rank}-tested.txt").write_text(str(error))
    (folder / "images" / "5.png").write_bytes((folder / "images" / "4.png").read_bytes())
    distributed.barrier()
    found = predict(Blind(), scenes, MapperSettings(test_size=12, test_longest=20))
    (folder / f"{rank}-found.txt").write_text(" ".join(str(one.scene) for one in found))
    distributed.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
