"""Messages of the Detectron2 engine about unsupported settings and old versions."""

from pathlib import Path

import pytest

from msbreg.run.config import flat
from msbreg.run.errors import UserError
from tests.transfer.detectors.test_engine import SMALL, samples
from transfer.detectors import detectron2_engine
from transfer.detectors.config.yaml_file import default_config, read_config
from transfer.detectors.detectron2_engine import check

CARDS = Path(__file__).resolve().parents[3] / "configs"
needs_detectron2 = pytest.mark.skipif(
    not detectron2_engine.available(), reason="Detectron2 is not installed"
)
FPN, C4 = "digits_coco_fpn", "digits_voc_c4"
RESNET50 = (
    *("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"),
    *("MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"),
)
DEFORMED = [*RESNET50, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, False, True]"]


def config(card, *overrides):
    return read_config(CARDS / f"{card}.yaml", [*SMALL.split(), *overrides])


@pytest.mark.parametrize("card", [FPN, C4])
def test_the_cards_are_supported(card):
    check(config(card))


@pytest.mark.parametrize(
    ("card", "key", "value"),
    [
        (FPN, "MODEL.META_ARCHITECTURE", "RetinaNet"),
        (FPN, "MODEL.LOAD_PROPOSALS", "True"),
        (FPN, "MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"),
        (FPN, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        (FPN, "MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True"),
        (FPN, "MODEL.RPN.BBOX_REG_LOSS_TYPE", "nonsense"),
        (FPN, "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "nonsense"),
        (FPN, "MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIAlignRotated"),
        (FPN, "MODEL.ROI_HEADS.NAME", "RROIHeads"),
        (C4, "MODEL.ROI_HEADS.IN_FEATURES", "['res3']"),
        (C4, "MODEL.RESNETS.NUM_GROUPS", "2"),
        (C4, "MODEL.RESNETS.RES5_DILATION", "2"),
        (C4, "MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[False, False, False, True]"),
        (C4, "MODEL.RESNETS.RES2_OUT_CHANNELS", "16"),
    ],
)
def test_unsupported_settings_are_named(card, key, value):
    with pytest.raises(UserError) as caught:
        check(config(card, key, value))
    assert f"{key} is " in str(caught.value)
    assert value in str(caught.value)
    assert "expected " in str(caught.value)


def test_federated_loss_is_rejected_even_with_sigmoid_cross_entropy():
    on = ["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", "True", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"]
    with pytest.raises(UserError, match="USE_FED_LOSS is True; expected False"):
        check(config(FPN, *on))


@needs_detectron2
def test_settings_are_checked_before_anything_is_built():
    with pytest.raises(UserError, match="MODEL.LOAD_PROPOSALS is True"):
        detectron2_engine.build_detector(config(C4, "MODEL.LOAD_PROPOSALS", "True"))


@needs_detectron2
def test_a_c4_detector_with_keypoints_is_an_error_that_names_the_key():
    with pytest.raises(UserError, match="MODEL.KEYPOINT_ON is True with Res5ROIHeads"):
        detectron2_engine.build_detector(config(C4, "MODEL.KEYPOINT_ON", "True"))


@needs_detectron2
@pytest.mark.parametrize(
    "overrides",
    [
        ["MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou", "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "ciou"],
        ["MODEL.RPN.BBOX_REG_LOSS_TYPE", "diou", "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", "True"],
        ["MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIPool", "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIPool"],
        [
            *("MODEL.ROI_HEADS.NAME", "CascadeROIHeads"),
            *("MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", "True"),
        ],
    ],
    ids=["giou", "sigmoid", "pool", "cascade"],
)
def test_settings_that_only_detectron2_supports_can_be_trained(overrides):
    losses = detectron2_engine.build_detector(config(FPN, *overrides)).train()(samples(0))
    assert all(loss.isfinite() for loss in losses.values())


@needs_detectron2
@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("MODEL.FPN.FUSE_TYPE", "max", "AssertionError"),  # an assert without a message
        ("MODEL.RESNETS.NORM", "Nonsense", "KeyError: 'Nonsense'"),
        ("MODEL.RPN.HEAD_NAME", "NoSuchHead", "No object named 'NoSuchHead'"),
    ],
)
def test_build_errors_of_detectron2_are_reported_with_the_key(key, value, words):
    with pytest.raises(UserError) as caught:
        detectron2_engine.build_detector(config(FPN, key, value))
    assert "cannot build this detector" in str(caught.value)
    assert words in str(caught.value)
    assert f"{key} is {value!r}" in str(caught.value)


@needs_detectron2
def test_deformable_stages_need_the_compiled_extension(monkeypatch):
    detectron2_engine.version()
    from detectron2.modeling.backbone import resnet
    from detectron2.utils.develop import create_dummy_class

    lacking = create_dummy_class("DeformConv", "detectron2._C", "Detectron2 is not compiled")
    monkeypatch.setattr(resnet, "DeformConv", lacking)
    with pytest.raises(UserError) as caught:
        detectron2_engine.build_detector(config(FPN, *DEFORMED))
    assert "ImportError" in str(caught.value)
    assert "MODEL.RESNETS.DEFORM_ON_PER_STAGE is [False" in str(caught.value)


@needs_detectron2
def test_deformable_stages_do_not_run_on_the_cpu(monkeypatch):
    detectron2_engine.version()
    from detectron2.modeling.backbone import resnet

    class Plain(resnet.Conv2d):  # builds without the extension
        def __init__(self, *args, deformable_groups, **settings):
            super().__init__(*args, **settings)

    monkeypatch.setattr(resnet, "DeformConv", Plain)
    detector = detectron2_engine.build_detector(config(FPN, *DEFORMED))
    with pytest.raises(UserError, match="DEFORM_ON_PER_STAGE(.|\n)*--device cuda"):
        detector(samples(0))


def older():
    """The settings of an older Detectron2, which lacks REPEAT_SQRT."""
    tree = default_config()
    del tree.DATALOADER["REPEAT_SQRT"]
    return tree


def test_an_older_detectron2_ignores_newer_keys_at_their_defaults():
    theirs, asked = older(), config(C4, "SOLVER.BASE_LR", "0.125")
    detectron2_engine._merge(theirs, flat(asked))
    assert theirs.SOLVER.BASE_LR == 0.125
    assert "REPEAT_SQRT" not in theirs.DATALOADER
    theirs.DATALOADER.REPEAT_SQRT = True
    assert flat(theirs) == flat(asked)


def test_an_older_detectron2_rejects_newer_keys_that_are_not_at_their_defaults(monkeypatch):
    monkeypatch.setattr(detectron2_engine, "version", lambda: "0.5")
    words = "DATALOADER.REPEAT_SQRT is False, but the Detectron2 0.5 installed here has no such"
    with pytest.raises(UserError, match=words):
        detectron2_engine._merge(older(), flat(config(C4, "DATALOADER.REPEAT_SQRT", "False")))


def test_a_key_with_another_type_in_another_detectron2_is_named(monkeypatch):
    monkeypatch.setattr(detectron2_engine, "version", lambda: "0.5")
    theirs = older()
    theirs.SOLVER.GAMMA = "a word"
    with pytest.raises(UserError, match="SOLVER.GAMMA is 0.1; the Detectron2 0.5 .* expects str"):
        detectron2_engine._merge(theirs, flat(config(C4)))


@needs_detectron2
def test_a_detectron2_without_a_newer_key_builds_the_same_detector(monkeypatch):
    detectron2_engine.version()
    import detectron2.config

    whole = detectron2.config.get_cfg

    def get_cfg():
        theirs = whole()
        del theirs.DATALOADER["REPEAT_SQRT"]
        return theirs

    wanted = detectron2_engine.build_detector(config(C4))
    monkeypatch.setattr(detectron2.config, "get_cfg", get_cfg)
    found = detectron2_engine.build_detector(config(C4))
    assert found.state_dict().keys() == wanted.state_dict().keys()
    assert detectron2_engine.build_solver(config(C4), found).rates(0)
