"""Reading Detectron2's yaml without Detectron2: merging, rejected files, and error messages."""

import subprocess
import sys
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


def test_a_base_is_relative_to_its_file_which_overrides_it(tmp_path):
    (tmp_path / "bases").mkdir()
    write(tmp_path / "bases", "first.yaml", "SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\n")
    write(tmp_path / "bases", "second.yaml", "_BASE_: first.yaml\nSOLVER: {MAX_ITER: 8}\n")
    path = write(tmp_path, "a.yaml", "_BASE_: bases/second.yaml\nSEED: 3\n")
    config = read_config(path, ["SEED", "4"])
    assert (config.SOLVER.BASE_LR, config.SOLVER.MAX_ITER, config.SEED) == (0.5, 8, 4)


def test_the_last_of_several_bases_wins(tmp_path):
    write(tmp_path, "one.yaml", "SEED: 1\nVIS_PERIOD: 1\n")
    write(tmp_path, "two.yaml", "SEED: 2\n")
    config = read_config(write(tmp_path, "a.yaml", "_BASE_: [one.yaml, two.yaml]\n"))
    assert (config.SEED, config.VIS_PERIOD) == (2, 1)


def test_pixpros_published_voc_config_is_read_unchanged(tmp_path):
    """It has no VERSION, tuples as strings, and an extra norm."""
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
        ("SEED: 1", ["SEED", "[" * 900], ["SEED is"]),
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
        ("- 1", [], ["is not a yaml mapping of settings, but a list of 1"]),
        ("A: [", [], ["not plain yaml"]),
        (
            "SEED: !!python/object/apply:eval ['1']",
            [],
            ["SEED (line 1) is Python code", "never run"],
        ),
        ("SEED: 2021-13-45", [], ["SEED is '2021-13-45'", "expected int"]),
        ("SEED: !!timestamp 2021-13-45", [], ["not plain yaml", "month"]),
        ("SEED: 0b", [], ["SEED"]),
        ("SEED: " + "1" * 5000, [], ["a.yaml is not plain yaml", "4300"]),
        ("SEED: 0x" + "f" * 5000, [], ["SEED is an integer of 20000 bits"]),
        ("VERSION: 0x" + "f" * 5000, [], ["VERSION an integer of 20000 bits"]),
        (
            "MODEL: {PIXEL_MEAN: [1.0, !!python/name:os.system '']}",
            [],
            ["PIXEL_MEAN (line 1) is Py"],
        ),
        ("? {a: 1}\n: 3", [], ["not plain yaml", "unhashable"]),
        ("A: " + "[" * 3000, [], ["nested deeper than 20 levels"]),
        ("A:\n" + "".join(" " * n + "a:\n" for n in range(1, 200)), [], ["nested deeper than 20"]),
        ("A: &a [*a]", [], ["line 1: contains itself"]),
        ("x" * 900 + ": 1", [], ["is not a Detectron2 setting"]),
        ("SEED: " + "(" * 900, [], ["SEED is"]),
        ("#" * (2**20 + 1), [], ["larger than 1048576 bytes"]),
        ("_BASE_: " + "x" * 5000, [], ["no such file", "File name too long"]),
        ("_BASE_: 3", [], ["_BASE_ is 3; expected a file name"]),
        ("_BASE_: [[a]]", [], ["_BASE_ is a list of 1; expected a file name"]),
    ],
)
def test_invalid_settings_are_named(tmp_path, text, overrides, words):
    path = write(tmp_path, "a.yaml", text + "\n")
    with pytest.raises(UserError) as caught:
        read_config(path, overrides)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file: .*card\.yaml"):
        read_config(tmp_path / "card.yaml")


def test_an_alias_bomb_is_rejected_without_expanding_it(tmp_path):
    """331 bytes that expand to 10^10 values, which would take minutes and gigabytes."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(UserError, match="more than 20000 values after expanding aliases"):
        read_config(write(tmp_path, "a.yaml", "\n".join(lines) + "\n"))


def test_ordinary_aliases_are_read(tmp_path):
    text = "MODEL: {RPN: {IN_FEATURES: &f [res4]}, ROI_HEADS: {IN_FEATURES: *f}}\n"
    assert read_config(write(tmp_path, "a.yaml", text)).MODEL.ROI_HEADS.IN_FEATURES == ["res4"]


def test_each_file_of_a_diamond_of_bases_is_read_once(tmp_path):
    """Would take 2^25 reads if each file were read as often as it is named."""
    write(tmp_path, "0.yaml", "SEED: 5\n")
    for n in range(1, 26):
        write(tmp_path, f"{n}.yaml", f"_BASE_: [{n - 1}.yaml, {n - 1}.yaml]\nVIS_PERIOD: {n}\n")
    config = read_config(tmp_path / "25.yaml")
    assert (config.SEED, config.VIS_PERIOD) == (5, 25)


def test_a_long_chain_of_bases_is_rejected(tmp_path):
    write(tmp_path, "0.yaml", "SEED: 5\n")
    for n in range(1, 2000):
        write(tmp_path, f"{n}.yaml", f"_BASE_: {n - 1}.yaml\n")
    with pytest.raises(UserError, match="more than 30 files by _BASE_"):
        read_config(tmp_path / "1999.yaml")


def test_a_section_in_place_of_a_value_of_the_base_is_named(tmp_path):
    write(tmp_path, "b.yaml", "SEED: 5\n")
    with pytest.raises(UserError, match="contradicts its _BASE_: 'SEED' is a section here"):
        read_config(write(tmp_path, "a.yaml", "_BASE_: b.yaml\nSEED: {A: 1}\n"))


def test_an_unsupported_architecture_is_reported_before_python_code(tmp_path):
    """As in Detectron2's Base-RetinaNet.yaml."""
    text = """
        MODEL:
          META_ARCHITECTURE: "RetinaNet"
          ANCHOR_GENERATOR:
            SIZES: !!python/object/apply:eval ["[[x, x * 2**(1.0/3)] for x in [32, 64]]"]
        """
    with pytest.raises(UserError) as caught:
        read_config(write(tmp_path, "a.yaml", text))
    for words in (
        "MODEL.META_ARCHITECTURE is 'RetinaNet', which is not supported",
        "MODEL.ANCHOR_GENERATOR.SIZES (line 5) is Python code, !!python/object/apply:eval, which is never",
    ):
        assert words in str(caught.value)


def test_reading_and_checking_a_config_does_not_import_torch():
    code = (
        "import sys; from transfer.detectors.config.yaml_file import default_config; "
        "from transfer.detectors.config.supported import check_run, check_supported; "
        "check_run(default_config()); check_supported(default_config()); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


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
