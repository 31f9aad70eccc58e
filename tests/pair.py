"""Start two processes of one group like torchrun, but without its startup time."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_pair(module: str, *words: object) -> list[int]:
    """Run ``python -m MODULE WORDS ...`` as ranks 0 and 1 of a group; return the exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", module, *map(str, words)]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | group | quiet | {"RANK": rank, "LOCAL_RANK": rank},
        )
        for rank in ("0", "1")
    ]
    return [process.wait(timeout=240) for process in started]
