import pytest

from msbreg.run.record import read_record
from tests.transfer import test_protocols
from tests.transfer.frozen.linear.test_linear_streamed import streamed
from transfer import linear

checkpoint, data = test_protocols.checkpoint, test_protocols.data  # fixtures


@pytest.mark.parametrize("route", ["cached", "streamed"])
def test_a_head_that_diverges_to_finite_numbers_is_a_warning(tmp_path, data, checkpoint, route):
    settings = {"route": route, "learning_rates": (1e20,), "norms": ("none",), "epochs": 2}
    linear.run(streamed(tmp_path, data, checkpoint, **settings))
    (warning,) = read_record(tmp_path / "run")["warnings"]
    assert "that of equal scores for all classes is 1.1: the head diverged" in warning
