"""Objects of classes that no longer exist: which of their content is kept along with the tensors."""

import argparse
import collections
import enum
import functools
import pathlib
import pickle

import numpy as np
import pytest
import torch

from msbreg.checkpoints.read import read_file
from msbreg.checkpoints.read.containers import load_legacy, load_pickle
from msbreg.checkpoints.read.inert import Inert, plain
from tests.msbreg.checkpoints.read.pickled import FORMS, Call, foreign_classes, legacy_with, write

WEIGHTS = torch.arange(6.0).reshape(2, 3)


def reread(path, content, form):
    """The content read with ``trust_pickle``, and the plain form of the object next to the weights."""
    found = read_file(write(path, {"w": WEIGHTS, "other": content}, form), trust_pickle=True)
    assert torch.equal(found.content["w"], WEIGHTS)
    return found, plain(found.content)["other"]


def exclude_bias_and_norm(parameter):
    return parameter.ndim == 1


@pytest.mark.parametrize("form", FORMS)
class TestWeightsAreKeptAlongWith:
    def test_options(self, tmp_path, form):
        options = argparse.Namespace(lr=0.1, crops=[2, 6], inner=argparse.Namespace(a=None))
        found, other = reread(tmp_path / "x", options, form)
        assert other == {"lr": 0.1, "crops": [2, 6], "inner": {"a": None}}
        assert found.stubbed == ("argparse.Namespace",)

    def test_numpy_numbers(self, tmp_path, form):
        numbers = [np.float64(0.5), np.int32(-7), np.bool_(True), np.complex64(1 + 2j)]
        found, other = reread(tmp_path / "x", numbers, form)
        assert other == [0.5, -7, True, 1 + 2j]
        assert [type(n) for n in other] == [float, int, bool, complex]
        assert found.stubbed == ()

    def test_a_function(self, tmp_path, form):
        exclude_bias_and_norm.__module__ = "__main__"
        with foreign_classes("__main__", exclude_bias_and_norm):
            path = write(tmp_path / "x", {"w": WEIGHTS, "f": exclude_bias_and_norm}, form)
        found = read_file(path, trust_pickle=True)
        assert plain(found.content)["f"].name == "__main__.exclude_bias_and_norm"

    def test_lightning_settings(self, tmp_path, form):
        class AttributeDict(dict):
            pass

        with foreign_classes("lightning.fabric.utilities.data", AttributeDict):
            settings = AttributeDict(lr=1, optimizer=AttributeDict(name="lars"))
            path = write(tmp_path / "x", {"w": WEIGHTS, "hyper_parameters": settings}, form)
        found = read_file(path, trust_pickle=True)
        expected = {"lr": 1, "optimizer": {"name": "lars"}}
        assert plain(found.content)["hyper_parameters"] == expected

    def test_mmengine_log_buffers(self, tmp_path, form):
        class HistoryBuffer:
            def __init__(self):
                self.__dict__.update(_log_history=np.arange(3.0), _max_length=9)

        with foreign_classes("mmengine.logging.history_buffer", HistoryBuffer):
            buffer = HistoryBuffer()
            buffer._statistics_methods = {"mean": Call(getattr, HistoryBuffer, "mean")}
            path = write(tmp_path / "x", {"w": WEIGHTS, "message_hub": buffer}, form)
        hub = plain(read_file(path, trust_pickle=True).content)["message_hub"]
        assert torch.equal(hub["_log_history"], torch.arange(3, dtype=torch.float64))
        assert hub["_statistics_methods"]["mean"].name == "builtins.getattr"

    def test_a_whole_network_read_as_its_state_dict(self, tmp_path, form):
        network = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 1), torch.nn.DataParallel(torch.nn.BatchNorm2d(2))
        )
        network.register_buffer("grid", torch.ones(1), persistent=False)
        _, state = reread(tmp_path / "x", network, form)
        expected = network.state_dict()
        assert list(state) == list(expected)
        assert all(torch.equal(state[key], expected[key]) for key in expected)

    def test_containers(self, tmp_path, form):
        counts = collections.defaultdict(list, a=[1])
        lines = collections.deque([1, 2], maxlen=5)
        content = [counts, lines, collections.deque(), collections.defaultdict(int)]
        _, other = reread(tmp_path / "x", content, form)
        assert other == [{"a": [1]}, [1, 2], [], {}]
        assert type(other[0]) is dict

    def test_objects_without_a_plain_form(self, tmp_path, form):
        class Mode(enum.Enum):
            TRAIN = 1

        with foreign_classes("run.modes", Mode):
            content = [Mode.TRAIN, pathlib.PurePosixPath("a/b"), functools.partial(int, "7")]
            path = write(tmp_path / "x", {"w": WEIGHTS, "other": content}, form)
        mode, path, partial = plain(read_file(path, trust_pickle=True).content)["other"]
        assert (mode.name, mode.args) == ("run.modes.Mode", (1,))
        assert path.args == ("a", "b")
        assert partial.name == "functools.partial"

    def test_parameters_read_as_tensors(self, tmp_path, form):
        parameter = torch.nn.Parameter(WEIGHTS.clone())
        parameter.note = "an attribute"
        found, other = reread(tmp_path / "x", [parameter, WEIGHTS.T, WEIGHTS[1]], form)
        assert type(other[0]) is torch.Tensor
        assert not other[0].requires_grad
        assert torch.equal(other[1], WEIGHTS.T)
        assert torch.equal(other[2], WEIGHTS[1])
        assert found.stubbed == ()


def test_omegaconf_settings_are_plain_containers(tmp_path):
    omegaconf = pytest.importorskip("omegaconf", reason="OmegaConf is not installed")
    config = omegaconf.OmegaConf.create({"lr": 0.1, "crops": [2, {"size": 96}], "name": None})
    for form in FORMS:
        found, other = reread(tmp_path / "x", config, form)
        assert other == {"lr": 0.1, "crops": [2, {"size": 96}], "name": None}
        assert "omegaconf.dictconfig.DictConfig" in found.stubbed


def test_objects_shaped_like_omegaconf_nodes_are_plain_containers():
    class DictConfig:
        pass

    class AnyNode:
        pass

    with foreign_classes("omegaconf", DictConfig, AnyNode):
        node, config = AnyNode(), DictConfig()
        vars(node).update(_metadata={"key": "lr"}, _parent=config, _val=0.1)
        vars(config).update(_metadata={}, _parent=None, _content={"lr": node})
        data = pickle.dumps(config)
    assert plain(load_pickle(data, set())) == {"lr": 0.1}


# -------------------------------------------------------------------------------------- NumPy

ARRAYS = [
    np.arange(6, dtype="f4").reshape(2, 3),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(6, dtype=">i4")[::2],
    np.array(3, dtype="u1"),
    np.zeros((0, 3), "f2"),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.arange(3, dtype="u2"),
]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.str}{a.shape}")
def test_arrays_of_every_numpy_version_become_tensors(array, core, protocol):
    data = pickle.dumps([array, array], protocol)
    if protocol < 4:  # names are lines; later protocols prefix them with a length
        data = data.replace(b"cnumpy._core", f"c{core}".encode())
    stubbed: set[str] = set()
    first, second = load_pickle(data, stubbed)
    expected = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
    assert torch.equal(first, expected.reshape(array.shape))
    assert first.dtype == expected.dtype
    assert first is second
    assert stubbed == set()
    first.zero_()  # its memory is its own and writable


def test_arrays_of_python_2_become_tensors():
    """Written by hand: the data is a string, as in Python 2."""
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ"
        b"\xff\xff\xff\xffK\x00tb\x89U\x08\x00\x00\x80?\x00\x00\x00\xc0tb."
    )
    assert load_pickle(data, set()).tolist() == [1.0, -2.0]


def test_arrays_of_jax_become_tensors():
    def _reconstruct_array(*_):
        raise AssertionError

    function, args, state = np.arange(3.0).__reduce__()
    with foreign_classes("jax._src.array", _reconstruct_array):
        data = pickle.dumps(Call(_reconstruct_array, function, args, state, {"weak_type": False}))
    assert load_pickle(data, set()).tolist() == [0, 1, 2]


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.str_("a")])
def test_numpy_strings_and_objects_stay_inert(array):
    stubbed: set[str] = set()
    assert isinstance(load_pickle(pickle.dumps(array), stubbed), Inert)
    assert "that is not numeric" in stubbed.pop()


def test_an_array_whose_bytes_do_not_fit_its_shape_is_rejected():
    data = pickle.dumps(np.arange(3.0), 2).replace(b"K\x01K\x03\x85", b"K\x01K\x04\x85")
    with pytest.raises(pickle.UnpicklingError, match=r"array \(4,\) has 24 bytes"):
        load_pickle(data, set())


# ------------------------------------------------------------------------- DeepMind's BYOL file

Fields = ("online_params", "target_params", "online_state", "target_state", "opt_state")


def byol(mapping, state_class):
    params = mapping({"res_net50/~/initial_conv": mapping({"w": np.ones((7, 7, 3, 2), "f4")})})
    state = mapping({"res_net50/~/batchnorm/~/mean_ema": {"average": np.zeros(2, "f4")}})
    return {
        "experiment_state": state_class(params, params, state, state, ()),
        "step": np.int32(5),
        "rng": np.array([0, 1], "u4"),
    }


def check_byol(data):
    content = plain(load_pickle(data, set()))
    state = content["experiment_state"]
    assert state["name"] == "_ByolExperimentState"
    assert state["args"][0]["res_net50/~/initial_conv"]["w"].shape == (7, 7, 3, 2)
    assert torch.equal(
        state["args"][2]["res_net50/~/batchnorm/~/mean_ema"]["average"], torch.zeros(2)
    )
    assert content["step"] == 5
    assert content["rng"].tolist() == [0, 1]


class FlatMapping:
    """Like haiku's: pickled as a call with a dict."""

    def __init__(self, content):
        self.content = content

    def __reduce__(self):
        return FlatMapping, (self.content,)


@pytest.mark.parametrize("protocol", [0, 1, 2, 5])
def test_a_jax_training_state_is_read(protocol):
    state_class = collections.namedtuple("_ByolExperimentState", Fields)
    with (
        foreign_classes("haiku._src.data_structures", FlatMapping),
        foreign_classes("byol.byol_experiment", state_class),
    ):
        data = pickle.dumps(byol(FlatMapping, state_class), protocol)
    check_byol(data)


@pytest.mark.parametrize("module", ["byol.byol_experiment", "__main__"])
def test_a_jax_training_state_saved_by_dill_is_read(module):
    """dill writes classes of ``__main__`` by value, including their functions, and others by name."""
    dill = pytest.importorskip("dill", reason="dill is not installed")
    state_class = collections.namedtuple("_ByolExperimentState", Fields)
    with (
        foreign_classes("haiku._src.data_structures", FlatMapping),
        foreign_classes(module, state_class),
    ):
        data = dill.dumps(byol(FlatMapping, state_class), protocol=2, byref=False)
    check_byol(data)


# ---------------------------------------------------------------------- cycles and depth


def test_containers_that_contain_themselves_are_read():
    content: dict = {"list": []}
    content["list"].append(content)
    content["options"] = argparse.Namespace(all=content)
    found = plain(load_pickle(pickle.dumps(content), set()))
    assert found["list"][0] is found
    assert found["options"]["all"] is found


def test_modules_that_contain_each_other_are_rejected():
    module = Inert("a.Module", made_by="class")
    module.state = {"_parameters": {}, "_buffers": {}, "_modules": {"a": module, "b": module}}
    with pytest.raises(pickle.UnpicklingError, match="contain each other in a cycle"):
        plain(module)


def test_deep_nesting_is_an_error():
    value: list = []
    for _ in range(10_000):
        value = [value]
    with pytest.raises(pickle.UnpicklingError, match="too deeply"):
        plain(value)


def test_old_networks_with_source_code_are_read():
    """Until 2020 torch.save stored the source code of a whole network in a persistent id."""
    data = (
        b"\x80\x02(S'module'\nctorch.nn.modules.linear\nLinear\nS'linear.py'\nS'class Linear'\ntQ"
        b")\x81}(S'_parameters'\n}S'_buffers'\n}S'_modules'\n}ub."
    )
    assert plain(load_legacy(legacy_with(data), set())) == {}
