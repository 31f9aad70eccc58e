"""One of several processes that extract features and run a protocol; started by test_feature_cache.py.

    python -m tests.transfer.frozen.extracting PROTOCOL DATA FOLDER [KILL_AFTER]

Shards have four rows. With KILL_AFTER, the process kills itself after that many shards.
"""

import importlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from transfer.frozen import feature_store
from transfer.frozen.feature_store import FeatureStore

SETTINGS: dict[str, dict[str, Any]] = {
    "knn": {"k": (1, 3)},
    "linear": {"epochs": 3, "learning_rates": (0.1, 1.0)},
    "logistic": {"regularizations": (1.0, 0.1), "held_out": 0.4},
    "streamed": {
        "route": "streamed",
        "epochs": 3,
        "batch_size": 8,
        "learning_rates": (0.1, 1.0),
        "norms": ("none", "affine"),
        "loading": 0,
        "held_out": 0.2,
    },
}
SETTINGS["attentive"] = SETTINGS["streamed"] | {"head": "attentive", "norms": ("no_affine",)}


def small_shards() -> None:
    feature_store.FEWEST_ROWS = 4
    feature_store.SHARDS = 1000


def evaluate(protocol: str, data: Path, folder: Path) -> dict[str, Any]:
    name = "linear" if protocol in ("streamed", "attentive") else protocol
    script = importlib.import_module(f"transfer.{name}")
    config = script.Config(
        checkpoint="random",
        arch="resnet18-tiny",
        image_size=16,
        data=str(data),
        output=folder / "run",
        cache=folder / "cache",
        device="cpu",
        workers=1,
        **SETTINGS[protocol],
    )
    results: dict[str, Any] = script.run(config)
    return results


if __name__ == "__main__":
    small_shards()
    if len(sys.argv) > 4:
        write, left = FeatureStore.write, [int(sys.argv[4])]

        def write_and_die(store: FeatureStore, shard: int, content: Any) -> None:
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            write(store, shard, content)

        FeatureStore.write = write_and_die  # type: ignore[method-assign]
    evaluate(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
