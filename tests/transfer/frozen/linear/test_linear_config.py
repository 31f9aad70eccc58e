import pytest

from msbreg.run.errors import UserError
from tests.transfer import test_protocols
from tests.transfer.frozen.linear.test_linear_streamed import streamed

checkpoint, data = test_protocols.checkpoint, test_protocols.data  # fixtures


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"head": "attentive"}, "expected one of none and no_affine"),
        ({"head": "attentive", "route": "cached"}, "expected --route streamed"),
        ({"schedule": "steps"}, "schedule is steps and drops"),
        ({"drops": (2.0,)}, "but the schedule is cosine; expected --schedule steps, or no drops"),
        ({"schedule": "steps", "drops": (80.0,)}, "epochs between 0 and 6"),
        (
            {"schedule": "steps", "drops": (80.0,)},
            r"such as with --drops 2 4, or use --schedule cosine",
        ),
        ({"standardize": True}, "standardize needs the features of all images"),
        ({"norms": ()}, "at least one of each"),
        ({"weight_decays": (-1.0,)}, "numbers of 0 or more"),
    ],
)
def test_impossible_settings_of_heads_are_rejected(tmp_path, data, checkpoint, changes, words):
    with pytest.raises(UserError, match=words):
        streamed(tmp_path, data, checkpoint, **changes)


def test_features_of_the_streamed_route_cannot_be_written(tmp_path, data, checkpoint):
    with pytest.raises(UserError, match="streamed has other features in every epoch"):
        streamed(tmp_path, data, checkpoint, features_out=tmp_path / "x.npz")
