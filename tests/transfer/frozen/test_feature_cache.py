"""The pass over the images: several processes, killed runs, and what the cache depends on."""

import numpy as np
import pytest
import torch

from msbreg.run.record import read_record
from tests.processes import Program, run_group
from tests.transfer.frozen import extracting
from transfer.frozen import feature_store

MODULE = "tests.transfer.frozen.extracting"


@pytest.fixture
def small_shards(monkeypatch):
    for name in ("FEWEST_ROWS", "SHARDS"):  # restores them
        monkeypatch.setattr(feature_store, name, getattr(feature_store, name))
    extracting.small_shards()


@pytest.fixture
def data(make_folder):
    return make_folder(classes=2, train=7, val=5)  # 14 and 10 images: four and three shards


def stored(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted((folder / "cache").rglob("*.npy"))
    }


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(("protocol", "processes"), [("knn", 3), ("linear", 2), ("logistic", 2)])
def test_several_processes_give_the_features_and_scores_of_one(data, tmp_path, protocol, processes):
    wanted = extracting.evaluate(protocol, data, tmp_path / "one")
    words = (protocol, data, tmp_path / "many")
    for code, _, message in run_group(MODULE, *words, processes=processes):
        assert code == 0, message
    record = read_record(tmp_path / "many" / "run")
    assert record["processes"] == processes
    assert record["results"] == wanted
    assert stored(tmp_path / "many") == stored(tmp_path / "one")
    assert len(stored(tmp_path / "one")) == 2 * (4 + 3)


@pytest.mark.usefixtures("small_shards")
def test_two_processes_train_the_streamed_heads_of_one(data, tmp_path):
    """14 images, 12 of them for training: batches of 8 and 4, and 3 and 3 of the last one are odd shares."""
    wanted = extracting.evaluate("streamed", data, tmp_path / "one")
    for code, _, message in run_group(MODULE, "streamed", data, tmp_path / "two"):
        assert code == 0, message
    assert read_record(tmp_path / "two" / "run")["results"] == wanted
    one, two = (
        torch.load(tmp_path / name / "run" / "heads.pth", weights_only=True)["model"]
        for name in ("one", "two")
    )
    assert (
        one.keys()
        == two.keys()
        == {"weight", "bias", "scale", "shift", "norm.mean", "norm.variance"}
    )
    for name, value in one.items():
        # Sums over the batch in another order, and features of other batch sizes.
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


def test_two_processes_give_the_score_of_one_for_attentive_probes(data, tmp_path):
    wanted = extracting.evaluate("attentive", data, tmp_path / "one")
    for code, _, message in run_group(MODULE, "attentive", data, tmp_path / "two"):
        assert code == 0, message
    assert read_record(tmp_path / "two" / "run")["results"] == wanted


@pytest.mark.usefixtures("small_shards")
def test_a_killed_extraction_continues_with_the_missing_shards(data, tmp_path):
    wanted = extracting.evaluate("knn", data, tmp_path / "whole")
    code, _, _ = Program(MODULE, ["knn", data, tmp_path / "broken", 2]).wait()
    assert code == -9
    kept = {
        path: path.stat().st_mtime_ns for path in (tmp_path / "broken" / "cache").rglob("*.npy")
    }
    assert len(kept) == 4  # features and hashes of two shards
    assert extracting.evaluate("knn", data, tmp_path / "broken") == wanted
    assert stored(tmp_path / "broken") == stored(tmp_path / "whole")
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


@pytest.mark.usefixtures("small_shards")
def test_an_unreadable_image_of_one_process_ends_all(data, tmp_path):
    (data / "train" / "class1" / "006.png").write_bytes(b"no image")  # of the last shard
    for code, _, message in run_group(MODULE, "knn", data, tmp_path / "run"):
        assert code != 0
        assert "006.png is not an image" in message


@pytest.mark.usefixtures("small_shards")
def test_a_file_in_place_of_the_cache_ends_several_processes_with_one_message(data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "cache").touch()
    for code, _, message in run_group(MODULE, "knn", data, tmp_path / "run"):
        assert code != 0
        assert "features cannot be cached in" in message
        assert "give a --cache that all processes can write to" in message


@pytest.mark.usefixtures("small_shards")
def test_the_features_are_those_of_one_batch_after_the_other(data, tmp_path):
    import msbreg

    extracting.evaluate("knn", data, tmp_path)
    folders = [path.parent for path in (tmp_path / "cache").rglob("manifest.json")]
    (manifest,) = [f for f in folders if '"images": 14' in (f / "manifest.json").read_text()]
    shards = [np.load(path) for path in sorted(manifest.glob("*.features.npy"))]
    backbone, spec = msbreg.random_backbone("resnet18-tiny", seed=0, image_size=16)
    wanted = msbreg.extract_features(backbone, spec, data / "train", device="cpu", batch_size=4)
    np.testing.assert_allclose(np.concatenate(shards), wanted, rtol=1e-5, atol=1e-6)
