"""What a run on several processes does differently from one process is named."""

from pretrain.equivalence import equivalent
from pretrain.recipe import Config, LossSettings

LOCAL = LossSettings(singular_sync=False)


def test_one_process_is_equivalent_whatever_the_settings():
    assert equivalent(Config(sync_bn=False, loss=LOCAL), 1) is True


def test_every_statistic_per_process_is_named():
    norm, covariance = equivalent(Config(sync_bn=False, loss=LOCAL), 2)
    assert "sync_bn=false" in norm
    assert "singular_sync=false" in covariance


def test_a_covariance_that_is_not_minimized_makes_no_difference():
    assert equivalent(Config(method="byol", loss=LOCAL), 2) is True


def test_what_differed_before_an_interruption_is_kept_and_named_once():
    config = Config(sync_bn=False)
    before = equivalent(config, 4)
    assert equivalent(config, 1, before=before) == equivalent(config, 2, before=before) == before
