"""Settings of single methods: checked when they are read, and part of the digest of their own method only."""

import dataclasses

import pytest

from msbreg.run.config import flat, plain
from msbreg.run.errors import UserError
from msbreg.run.options import parse
from msbreg.run.record import matches, outside_protocol, protocol_digest
from pretrain import method_settings as groups
from pretrain.methods import METHODS
from pretrain.recipe import AugmentSettings, Config, HeadSettings, TargetSettings

OF_METHOD = {name: getattr(Config(), name) for name in METHODS if hasattr(Config(), name)}


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("simclr.temperature", 0.0, "more than 0"),
        ("simclr.temperature", float("nan"), "more than 0"),
        ("moco_v2.temperature", -1.0, "more than 0"),
        ("moco_v2.queue", 0, "1 or more"),
        ("moco_v3.temperature", 0.0, "more than 0"),
        ("swav.prototypes", 1, "2 or more"),
        ("swav.temperature", 0.0, "more than 0"),
        ("swav.epsilon", 0.0, "more than 0"),
        ("swav.iterations", 0, "1 or more"),
        ("swav.queue", -1, "0 or more"),
        ("swav.queue_from_epoch", -1.0, "0 or more"),
        ("swav.freeze_epochs", -0.5, "0 or more"),
        ("deepcluster_v2.clusters", (), "one or more numbers, each 2 or more"),
        ("deepcluster_v2.clusters", (3, 1), "one or more numbers, each 2 or more"),
        ("deepcluster_v2.temperature", 0.0, "more than 0"),
        ("deepcluster_v2.iterations", 0, "1 or more"),
        ("barlow_twins.off_diagonal", -1.0, "0 or more"),
        ("barlow_twins.scale", 0.0, "more than 0"),
        ("vicreg.invariance", -1.0, "0 or more"),
        ("vicreg.variance", -1.0, "0 or more"),
        ("vicreg.covariance", -1.0, "0 or more"),
        ("wmse.size", 1, "2 or more"),
        ("wmse.iterations", 0, "1 or more"),
        ("wmse.epsilon", 1.5, "from 0 to 1"),
        ("dbn.group", 0, "1 or more"),
        ("dbn.epsilon", -1e-3, "0 or more"),
        ("dino.prototypes", 1, "2 or more"),
        ("dino.bottleneck", 0, "1 or more"),
        ("dino.student_temperature", 0.0, "more than 0"),
        ("dino.teacher_temperature", (0.04, 0.0), "two numbers of more than 0"),
        ("dino.warmup_epochs", -1.0, "0 or more"),
        ("dino.center_momentum", 1.1, "from 0 to 1"),
        ("dino.freeze_epochs", -1.0, "0 or more"),
        ("dino.clip", -1.0, "0 or more"),
    ],
)
def test_an_invalid_value_is_refused_with_its_name_and_what_is_expected(option, value, expected):
    method, _, name = option.partition(".")
    group = dataclasses.replace(OF_METHOD[method], **{name: value})
    with pytest.raises(UserError) as error:
        Config(method=method, **{method: group})
    assert str(error.value) == f"{option} is {value!r}; expected {expected}. Set it with --{option}"


def test_every_number_of_a_method_has_a_check():
    unchecked = [
        f"{method}.{field.name}"
        for method, group in OF_METHOD.items()
        for field in dataclasses.fields(group)
        if field.type not in (bool, "bool") and field.name not in group.expectations()
    ]
    assert unchecked == []


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_of_every_method_are_valid(method):
    assert Config(method=method).method == method


def test_the_settings_of_another_method_are_refused():
    with pytest.raises(UserError) as error:
        parse(Config, ["--method", "byol", "--swav.prototypes", "30"])
    assert str(error.value) == (
        "swav.prototypes is 30, but --method is byol, which does not read it. "
        "Use --method swav, or omit --swav.prototypes"
    )


def test_settings_of_a_method_are_read_from_the_command_line():
    config, _ = parse(Config, ["--method", "deepcluster_v2", "--deepcluster_v2.clusters", "[5,6]"])
    assert config.deepcluster_v2 == groups.DeepClusterV2Settings(clusters=(5, 6))


@pytest.mark.parametrize("term", ["singular_value", "brownian"])
def test_a_term_that_msbreg_has_cannot_be_added_to_it(term):
    with pytest.raises(UserError, match="only uniformity for msbreg, whose loss contains the oth"):
        Config(add=("uniformity", term))
    assert Config(add=("uniformity",)).add == ("uniformity",)


def test_local_views_have_no_independent_targets():
    target = TargetSettings(views="independent")
    with pytest.raises(UserError, match=r"target\.views is 'independent'; expected shared with"):
        Config(target=target, augment=AugmentSettings(local_views=2))
    assert Config(target=target).target == target


def test_a_predictor_has_at_least_one_hidden_dimension():
    with pytest.raises(
        UserError, match=r"head\.predictor_hidden is 0; expected null or at least 1"
    ):
        Config(head=HeadSettings(predictor_hidden=0))


# ---- Digests


def test_the_digest_of_the_defaults_is_that_of_the_version_without_these_methods():
    assert protocol_digest(Config()) == "3c0bd8f46ee9"


@pytest.mark.parametrize("method", METHODS)
def test_only_the_settings_of_the_own_method_count(method):
    config = Config(method=method)
    names = [name for name in flat(plain(config)) if name.partition(".")[0] in OF_METHOD]
    counted = [name for name in names if not matches(name, outside_protocol(config))]
    assert counted == [name for name in names if name.startswith(f"{method}.")]


def test_a_setting_of_the_own_method_changes_the_digest():
    other = groups.SwAVSettings(prototypes=300)
    assert protocol_digest(Config(method="swav")) != protocol_digest(
        Config(method="swav", swav=other)
    )


def test_added_terms_and_their_weights_change_the_digest():
    runs = [
        Config(method="simsiam"),
        Config(method="simsiam", add=("brownian",)),
        Config(method="simsiam", add=("uniformity",)),
        Config(method="simsiam", add=("uniformity",), lambda_u=0.1),
    ]
    assert len({protocol_digest(config) for config in runs}) == 4
