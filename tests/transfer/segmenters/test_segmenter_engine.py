"""The choice of the engine, with MMSegmentation absent, broken or unable to build a network."""

import sys

import pytest

from msbreg.run.errors import UserError
from tests.transfer.segmenters.mmseg_twin import needs_mmseg
from transfer.segmenters import segmenter_engine
from transfer.segmenters.mmseg_config import ENGINE_MODULE
from transfer.segmenters.segmentation_config import NetworkOptions
from transfer.segmenters.segmenter_engine import choose

LINEAR = NetworkOptions(head="linear")


def broken() -> None:
    raise ImportError("cannot import name 'ConvModule' from 'mmcv.cnn'")


def test_torchvision_can_be_requested():
    engine = choose("torchvision")
    assert engine.described() == {"name": "torchvision", "version": engine.version}


@needs_mmseg
def test_auto_is_mmseg_where_it_is_installed():
    assert choose("auto").name == "mmseg"


def test_a_missing_mmseg_is_reported(monkeypatch):
    monkeypatch.setattr(segmenter_engine, "mmseg_is_installed", lambda: False)
    assert choose("auto").name == "torchvision"
    with pytest.raises(
        UserError, match="not installed(.|\n)*pip install(.|\n)*--engine torchvision"
    ):
        choose("mmseg")


def test_auto_skips_an_mmseg_that_cannot_be_imported(monkeypatch):
    monkeypatch.setattr(segmenter_engine, "mmseg_is_installed", lambda: True)
    monkeypatch.setattr(segmenter_engine, "import_quietly", broken)
    assert choose("auto").name == "torchvision"
    with pytest.raises(
        UserError, match="cannot be imported: ImportError: cannot import name 'Conv"
    ):
        choose("mmseg")


def test_auto_is_torchvision_for_a_head_that_mmseg_lacks(monkeypatch):
    monkeypatch.setattr(segmenter_engine, "mmseg_is_installed", lambda: True)
    assert choose("auto", LINEAR).name == "torchvision"
    with pytest.raises(UserError, match="network.head is linear(.|\n)*--engine torchvision"):
        choose("mmseg", LINEAR)


OLD = {"mmseg": "__version__ = '0.30.0'", "mmcv": "__version__ = '1.7.0'"}


@pytest.fixture
def old_mmseg(tmp_path, monkeypatch):
    """An installation from before mmseg.registry and mmcv.transforms."""
    for name, text in OLD.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    mine = (*OLD, ENGINE_MODULE)
    loaded = {n: m for n, m in sys.modules.items() if n in mine or n.partition(".")[0] in OLD}
    for name in loaded:
        del sys.modules[name]
    yield
    for name in [n for n in sys.modules if n.partition(".")[0] in OLD or n == ENGINE_MODULE]:
        del sys.modules[name]
    sys.modules.update(loaded)


def test_an_mmseg_that_is_too_old_is_skipped_with_a_warning(old_mmseg, caplog):
    words = (
        "MMSegmentation is installed, but cannot be imported: ModuleNotFoundError: No module named"
    )
    assert choose("auto").name == "torchvision"
    assert caplog.messages[0].startswith(words)
    with pytest.raises(UserError, match=f"--engine mmseg: {words}(.|\n)*--engine torchvision"):
        choose("mmseg")
