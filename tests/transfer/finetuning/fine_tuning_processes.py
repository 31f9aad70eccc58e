"""One of several processes that fine-tune a classifier; started by test_classifier_training.py.

python -m tests.transfer.finetuning.fine_tuning_processes DATA FOLDER
"""

import sys
from pathlib import Path

from transfer import semisupervised


def settings(data: Path, output: Path, **changes) -> semisupervised.Config:
    """A few steps on 16-pixel images, with frozen statistics: those of a batch depend on its processes."""
    values = {
        "checkpoint": "random",
        "arch": "resnet18-tiny",
        "image_size": 16,
        "data": str(data),
        "output": output,
        "device": "cpu",
        "workers": 1,
        "loading": 0,
        "freeze": "statistics",
        "learning_rates": (0.1,),
        "encoder_rates": (0.01,),
        "epoch_counts": (2,),
        "batch_size": 8,
    }
    return semisupervised.Config(**values | changes)


if __name__ == "__main__":
    semisupervised.run(settings(Path(sys.argv[1]), Path(sys.argv[2])))
