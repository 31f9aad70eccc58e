"""Detectron2's yaml without Detectron2: what merges, what is refused, and in which words."""

import textwrap
import warnings

import pytest

from msbreg.run.errors import UserError
from transfer.detectors.config.defaults import DEFAULTS
from transfer.detectors.config.yaml_file import default_config, read_config


def write(folder, name, text):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_an_empty_section_leaves_the_defaults(tmp_path):
    config = read_config(write(tmp_path, "a.yaml", "MODEL: {}\n"))
    assert config == default_config()
    assert config.is_frozen()


def test_a_base_is_relative_to_its_file_and_gives_way_to_it(tmp_path):
    (tmp_path / "bases").mkdir()
    write(tmp_path / "bases", "first.yaml", "SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\n")
    write(tmp_path / "bases", "second.yaml", "_BASE_: first.yaml\nSOLVER: {MAX_ITER: 8}\n")
    path = write(tmp_path, "a.yaml", "_BASE_: bases/second.yaml\nSEED: 3\n")
    config = read_config(path, ["SEED", "4"])
    assert (config.SOLVER.BASE_LR, config.SOLVER.MAX_ITER, config.SEED) == (0.5, 8, 4)


def test_of_several_bases_the_last_wins(tmp_path):
    write(tmp_path, "one.yaml", "SEED: 1\nVIS_PERIOD: 1\n")
    write(tmp_path, "two.yaml", "SEED: 2\n")
    config = read_config(write(tmp_path, "a.yaml", "_BASE_: [one.yaml, two.yaml]\n"))
    assert (config.SEED, config.VIS_PERIOD) == (2, 1)


def test_the_public_voc_card_of_pixpro_reads_as_it_is(tmp_path):
    """Its keys and ways: no VERSION, tuples as strings, an extra norm."""
    write(
        tmp_path,
        "Base-RCNN-C4-BN.yaml",
        """
        MODEL:
          META_ARCHITECTURE: "GeneralizedRCNN"
          RPN:
            PRE_NMS_TOPK_TEST: 6000
            POST_NMS_TOPK_TEST: 1000
          ROI_HEADS:
            NAME: "Res5ROIHeadsExtraNorm"
          BACKBONE:
            FREEZE_AT: 0
          RESNETS:
            NORM: "SyncBN"
        TEST:
          PRECISE_BN:
            ENABLED: True
        SOLVER:
          IMS_PER_BATCH: 16
          BASE_LR: 0.02
        """,
    )
    path = write(
        tmp_path,
        "voc.yaml",
        """
        _BASE_: "Base-RCNN-C4-BN.yaml"
        MODEL:
          PIXEL_MEAN: [123.675, 116.280, 103.530]
          PIXEL_STD: [58.395, 57.120, 57.375]
          WEIGHTS: "See Instructions"
          MASK_ON: False
          RESNETS:
            STRIDE_IN_1X1: False
          ROI_HEADS:
            NUM_CLASSES: 20
        INPUT:
          FORMAT: "RGB"
          MIN_SIZE_TRAIN: (480, 512, 544)
          MIN_SIZE_TEST: 800
        DATASETS:
          TRAIN: ('voc_2007_trainval', 'voc_2012_trainval')
          TEST: ('voc_2007_test',)
        SOLVER:
          STEPS: (18000, 22000)
          MAX_ITER: 24000
          WARMUP_ITERS: 100
        """,
    )
    config = read_config(path)
    assert config.VERSION == 2
    assert config.INPUT.MIN_SIZE_TRAIN == (480, 512, 544)
    assert config.DATASETS.TRAIN == ("voc_2007_trainval", "voc_2012_trainval")
    assert config.MODEL.ROI_HEADS.NAME == "Res5ROIHeadsExtraNorm"
    assert config.MODEL.RPN.NMS_THRESH == 0.7  # not in the files


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("MODEL: {FREEZE_AT: 0}", [], ["MODEL.FREEZE_AT", "MODEL.BACKBONE.FREEZE_AT", "a.yaml"]),
        ("SEED: 1", ["MODEL.RPN.NMS_TRESH", "0.5"], ["overrides", "MODEL.RPN.NMS_THRESH"]),
        ("SEED: 1", ["SEED"], ["KEY VALUE"]),
        ("SEED: 1", ["SOLVER.BASE_LR", "much"], ["SOLVER.BASE_LR", "'much'", "str", "float"]),
        ("SOLVER: {BASE_LR: 1}", [], ["SOLVER.BASE_LR", "int", "float"]),
        ("SOLVER: {BASE_LR: }", [], ["SOLVER.BASE_LR has no value", "float"]),
        ("SEED: 1", ["MODEL.MASK_ON", "None"], ["MODEL.MASK_ON has no value", "bool"]),
        ("MODEL: 3", [], ["MODEL is a section"]),
        ("SEED: {A: 1}", [], ["SEED.A"]),
        ("VERSION: 1", [], ["VERSION 1"]),
        ("_BASE_: b.yaml", [], ["no such file", "b.yaml", "_BASE_ of"]),
        ("_BASE_: a.yaml", [], ["its own base"]),
        ("- 1", [], ["no settings"]),
        ("A: [", [], ["no plain yaml"]),
        ("A: !!python/object/apply:eval ['1']", [], ["no plain yaml"]),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, overrides, words):
    path = write(tmp_path, "a.yaml", text + "\n")
    with pytest.raises(UserError) as caught:
        read_config(path, overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*card\.yaml"):
        read_config(tmp_path / "card.yaml")


def test_the_defaults_are_detectron2s_in_value_and_type():
    pytest.importorskip("detectron2", reason="compares with Detectron2, which is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script and others, deprecated, at its import
        from detectron2.config import get_cfg
    theirs = get_cfg()

    def leaves(tree, prefix=""):
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value

    expected = dict(leaves(theirs))
    assert expected == DEFAULTS
    assert {k: type(v) for k, v in expected.items()} == {k: type(v) for k, v in DEFAULTS.items()}
