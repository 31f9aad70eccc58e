"""Read each file in the arguments in a process with limited memory and time; print a JSON list.

The budget of a small file and the limits are a quarter of the real ones, 2**28 units, 2 GiB and 15 seconds.
Each result is ``[outcome, message]``. Started by ``test_rebuild.py``.
"""

import json
import os
import resource
import sys
from pathlib import Path

import torch

from msbreg.checkpoints.read import read_file, rebuild
from msbreg.run.errors import UserError

BYTES, SECONDS = 2**29, 4


def limited(path: Path) -> list[str]:
    """Limit this process, read one file, and return the result."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
    try:
        read_file(path)
    except UserError as error:
        return ["UserError", str(error)]
    except MemoryError:
        return ["MemoryError", ""]
    return ["read", ""]


def main() -> None:
    torch.set_num_threads(1)
    rebuild.LEAST //= 4
    results = []
    for name in sys.argv[1:]:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writing, json.dumps(limited(Path(name)))[:60_000].encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as file:
            text = file.read()
        _, status = os.waitpid(child, 0)
        results.append(json.loads(text) if text else ["killed", str(status)])
    print(json.dumps(results))


if __name__ == "__main__":
    main()
