import resource

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from msbreg.run.errors import RunFailed
from pretrain.event_file import EventFile


def test_tensorboard_reads_what_was_added(tmp_path):
    events = EventFile(tmp_path / "board", first_step=1)
    events.add_scalar("loss", 0.5, 1)
    events.add_scalar("loss", 0.25, 2)
    events.add_histogram("spectrum", np.array([1.0, 2.0, 3.0]), 2)
    read = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert read.Histograms("spectrum")[0].histogram_value.num == 3


def test_a_full_disk_is_one_error_that_names_the_file(tmp_path, capfd):
    events = EventFile(tmp_path / "board", first_step=1)
    size = events.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(RunFailed, match=r"cannot write .*board/events\.out.*: File too large"):
            events.add_scalar("loss", 0.5, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr().err == ""
