"""Watch a training run: the backbones that pretrain/run.py keeps with --keep-every, as they appear."""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

from msbreg.run import distributed
from msbreg.run.errors import UserError
from msbreg.run.job import log
from msbreg.run.record import read_record
from transfer.orchestration.protocols import GATE
from transfer.orchestration.suite_config import KEPT, Config

SECONDS_BETWEEN_LOOKS = 5.0
PROTOCOLS = ("knn", "linear")
_ENDED = ("done", "failed")


def watch_config(config: Config) -> Config:
    """The config of a suite that watches: fast protocols, and no gate, which early epochs may not pass."""
    return dataclasses.replace(
        config, only=config.only or PROTOCOLS, skip=tuple({*config.skip, GATE})
    )


def rounds(config: Config) -> Iterator[tuple[Path, ...]]:
    """Yield all backbones that the run has kept, whenever there are new ones, until it has ended.

    An interrupted run may be continued, so it is waited for. With ``once``, yields at most once.

    Raises:
        UserError: the folder is not a training run that keeps backbones, or it has none: yet, with ``once``, or
            although the run has ended.
    """
    seen = 0
    while True:
        # The status is read first: what was kept before the end is then among the files.
        status = distributed.from_main(lambda: _status(config))
        found = distributed.from_main(lambda: config.all_checkpoints)
        if status in _ENDED and not found:
            raise UserError(
                f"{config.watch} has not kept a backbone, and the run has ended ({status}); expected files "
                f"{KEPT} in it"
            )
        if (config.once or config.plan) and not found:
            raise UserError(f"{config.watch} has not kept a backbone yet; wait, or omit --once")
        if len(found) > seen:
            seen = len(found)
            yield found
        if config.once or status in _ENDED:
            log.info("%s: the run is %s; backbones: %d", config.watch, status, seen)
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _status(config: Config) -> str:
    """The status of the training run.

    Raises:
        UserError: there is none, or it keeps no backbones.
    """
    assert config.watch is not None
    folder = config.watch.expanduser()
    record = read_record(folder) if folder.is_dir() else None
    if record is None or record["kind"] != "pretrain":
        raise UserError(
            f"watch is {config.watch}, which contains no run of pretrain/run.py; expected its output folder"
        )
    if not record["config"].get("keep_every"):
        raise UserError(
            f"{config.watch} keeps no backbones; train with --keep-every N, which may also be given when an "
            "interrupted run is continued"
        )
    status: str = record["status"]
    return status
