"""Shards of features: what is read equals what was written, and damage is found."""

import json

import numpy as np
import pytest

from transfer.frozen.feature_store import MANIFEST, FeatureStore, Rows, rows_per_shard


def features(rows: int = 600, width: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    contents = rng.integers(0, 2**63, rows, dtype=np.uint64)
    return rng.standard_normal((rows, width), dtype=np.float32), contents


def filled(folder, *, dtype: str = "float32", complete: bool = True) -> FeatureStore:
    """Three shards of 256, 256 and 88 rows."""
    store = FeatureStore(folder / "store", 600, 3, dtype, {"weights": "abc"})
    x, contents = features()
    for shard, rows in enumerate(store.ranges()):
        store.write(shard, (x[rows.start : rows.stop], contents[rows.start : rows.stop]))
    if complete:
        store.complete()
    return store


def test_the_rows_and_hashes_are_those_that_were_written(tmp_path):
    x, contents = features()
    rows, hashes = filled(tmp_path).open()
    assert np.array_equal(np.asarray(rows), x)
    assert np.array_equal(hashes, contents)
    assert (rows.shape, len(rows), rows.ndim) == ((600, 3), 600, 2)


@pytest.mark.parametrize(
    "index",
    [
        slice(None),
        slice(10, 20),
        slice(250, 520),
        slice(256, 512),
        slice(590, 700),
        slice(20, 10),
        slice(600, 700),
        slice(0, 600, 7),
        slice(-5, None),
        np.array([599, 0, 256, 255, 0]),
        np.array([-1, -600]),
        np.array([], dtype=int),
        np.arange(600) % 5 == 0,
    ],
    ids=str,
)
def test_rows_are_indexed_like_an_array(tmp_path, index):
    x, _ = features()
    rows, _ = filled(tmp_path).open()
    found = rows[index]
    assert found.dtype == np.float32
    assert np.array_equal(found, x[index])


def test_slices_of_one_shard_are_not_copied(tmp_path):
    rows, _ = filled(tmp_path).open()
    assert isinstance(rows[10:20], np.memmap)


def test_bfloat16_rounds_to_the_nearest_and_takes_half_the_space(tmp_path):
    import torch

    x, _ = features()
    rows, _ = filled(tmp_path, dtype="bf16").open()
    assert np.array_equal(np.asarray(rows), torch.from_numpy(x).bfloat16().float().numpy())
    assert (tmp_path / "store" / "00000.features.npy").stat().st_size == 128 + 256 * 3 * 2


def test_shards_are_large_for_large_data_sets_only():
    assert [rows_per_shard(n) for n in (1, 256, 20_000, 10**7)] == [256, 256, 512, 8192]


def test_the_manifest_says_what_was_extracted_and_replaces_the_checksums_of_shards(tmp_path):
    store = filled(tmp_path)
    manifest = json.loads((store.folder / MANIFEST).read_text())
    assert manifest["weights"] == "abc"
    assert (manifest["images"], manifest["width"], len(manifest["shards"])) == (600, 3, 3)
    assert [path.name for path in store.folder.glob("*.json")] == [MANIFEST]
    assert store.missing() == ([], {})


def test_an_unfinished_shard_is_missing_and_the_others_are_kept(tmp_path):
    store = filled(tmp_path, complete=False)
    (store.folder / "00001.json").unlink()  # killed between the arrays and their checksums
    assert store.missing() == ([1], {})
    assert FeatureStore(tmp_path / "new", 600, 3, "float32", {}).missing() == ([0, 1, 2], {})


def damage(path, how: str) -> None:
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "removed":
        path.unlink()
    elif how == "another width":
        np.save(path, np.zeros((256, 2), np.float32))
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[:middle],
                "zeroed": bytes(len(content)),
                "one bit": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
            }[how]
        )


@pytest.mark.parametrize(
    "how", ["removed", "empty", "truncated", "zeroed", "one bit", "another width"]
)
@pytest.mark.parametrize("name", ["00001.features.npy", "00001.contents.npy"])
def test_a_damaged_shard_is_found(tmp_path, how, name):
    store = filled(tmp_path)
    damage(store.folder / name, how)
    missing, damaged = store.missing()
    assert missing == []
    assert list(damaged) == [1]


def test_shards_of_another_shape_with_right_checksums_are_found(tmp_path):
    filled(tmp_path)
    other = FeatureStore(tmp_path / "store", 600, 4, "float32", {})
    assert list(other.missing()[1]) == [0, 1, 2]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"shards": 3}', b"[" * 100_000])
def test_a_damaged_manifest_means_that_shards_are_missing(tmp_path, content):
    store = filled(tmp_path)
    (store.folder / MANIFEST).write_bytes(content)
    assert store.missing()[0] == [0, 1, 2]


def test_a_repaired_shard_is_complete_again(tmp_path):
    store = filled(tmp_path)
    damage(store.folder / "00001.features.npy", "zeroed")
    x, contents = features()
    store.write(1, (x[256:512], contents[256:512]))
    assert store.missing() == ([], {})
    store.complete()
    assert np.array_equal(np.asarray(store.open()[0]), x)


def test_shards_in_memory_stand_for_those_that_cannot_be_written(tmp_path):
    store = filled(tmp_path)
    shard = np.ones((256, 3), np.float32), np.ones(256, np.uint64)
    rows, hashes = store.open({1: shard})
    assert np.array_equal(rows[256:512], shard[0])
    assert np.array_equal(hashes[256:512], shard[1])


def test_rows_are_also_made_of_arrays_in_memory():
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    assert np.array_equal(Rows([x[:4], x[4:]])[3:5], x[3:5])
