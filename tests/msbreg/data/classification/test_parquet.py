import pickle

import cv2
import numpy as np
import pytest

from msbreg.data.decoding import decode_image
from msbreg.data.sources import open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.published_trees import parquet_tree

pyarrow = pytest.importorskip(
    "pyarrow", reason="pyarrow, the extra hub, is not installed: pip install -e '.[hub]'"
)


@pytest.fixture(params=["parquet", "arrow"])
def hub(request, tmp_path):
    """(root, encoded training images), in files of either kind."""
    return tmp_path, parquet_tree(tmp_path, arrow=request.param == "arrow")


def test_images_are_read_by_index_in_any_order(hub):
    root, encoded = hub
    images = open_source(f"parquet:{root}", "train")
    for i in (7, 0, 4, 3, 5, 0):
        assert np.array_equal(images.image(i), decode_image(encoded[i], "image"))
    assert images.labels.tolist() == [0, 1] * 4
    assert images.classes == ("even", "odd")
    assert len(open_source(f"parquet:{root}", "validation")) == 4
    assert recognized(root) == "parquet"


def test_entries_are_rows_of_files(hub):
    root, encoded = hub
    images = open_source(f"parquet:{root}", "train").subset([5, 0])
    names = [images.entry(i).partition("-")[2] for i in range(2)]
    assert [name.partition(".")[0] for name in names] == ["00001-of-00002", "00000-of-00002"]
    assert [name.rpartition(":")[2] for name in names] == ["1", "0"]
    assert np.array_equal(images.image(0), decode_image(encoded[5], "image"))


def test_a_worker_process_reads_the_same_images(hub):
    root, encoded = hub
    images = open_source(f"parquet:{root}", "train")
    images.image(0)
    copy = pickle.loads(pickle.dumps(images))
    assert np.array_equal(copy.image(6), decode_image(encoded[6], "image"))


def test_more_row_groups_than_the_cache_keeps_give_the_same_images(tmp_path, monkeypatch):
    from msbreg.data.classification import parquet

    monkeypatch.setattr(parquet, "_CACHED_BYTES", 0)
    encoded = parquet_tree(tmp_path, train=40)
    images = open_source(f"parquet:{tmp_path}", "train")
    for i in np.random.default_rng(0).permutation(40):
        assert np.array_equal(images.image(i), decode_image(encoded[i], "image"))
    assert all(len(images._shards[part]._recent) == 2 for part in range(2))


def test_other_images_give_another_fingerprint(hub, tmp_path):
    root, _ = hub
    before = open_source(f"parquet:{root}", "train").fingerprint
    assert before != open_source(f"parquet:{root}", "validation").fingerprint
    again = tmp_path / "again"
    (again / root.name).parent.mkdir()
    parquet_tree(again, arrow=(root / "train").is_dir())
    assert open_source(f"parquet:{again}", "train").fingerprint == before


def test_an_unknown_split_and_a_missing_shard_are_rejected(hub):
    root, _ = hub
    with pytest.raises(UserError, match="has no split 'val'; expected one of: train, validation"):
        open_source(f"parquet:{root}", "val")
    next(root.rglob("*00001-of-00002*")).unlink()
    with pytest.raises(UserError, match="the split train has 1 files, but their names say 2"):
        open_source(f"parquet:{root}", "train")


def test_a_cut_file_is_rejected(hub):
    root, _ = hub
    file = next(root.rglob("*00001-of-00002*"))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be read: .*Download it again"):
        open_source(f"parquet:{root}", "train")


def write(root, **columns) -> None:
    import pyarrow.parquet

    root.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), root / "train.parquet")


def test_files_without_metadata_are_read_by_the_names_of_their_columns(tmp_path):
    image = cv2.imencode(".png", np.full((3, 3, 3), 9, np.uint8))[1].tobytes()
    write(tmp_path, jpg=[image, image], label=[1, 0])
    images = open_source(f"parquet:{tmp_path}", "train")
    assert (images.labels.tolist(), images.classes) == ([1, 0], ("0", "1"))
    assert images.image(1).mean() == 9
    write(tmp_path, img=[image, None])
    images = open_source(f"parquet:{tmp_path}", "train")
    assert images.labels is None
    with pytest.raises(UserError, match=r"train\.parquet:1 contains no bytes of an image"):
        images.image(1)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"photograph": [b"x"]}, "has the columns photograph; expected one image column"),
        (
            {"image": [b"x"], "label": ["cat"]},
            "the column label contains string; expected integers",
        ),
        ({"image": [b"x", b"x"], "label": [0, 2]}, "1 of the 3 classes have no image: 1"),
        ({"image": [b"x", b"x"], "label": [0, -3]}, "the label of image 1 is -3"),
        ({"image": []}, "the files of the split train have no rows"),
    ],
)
def test_unusable_columns_are_rejected_with_the_reason(tmp_path, columns, words):
    write(tmp_path, **columns)
    with pytest.raises(UserError, match=words):
        open_source(f"parquet:{tmp_path}", "train")


def test_a_folder_of_images_with_a_table_beside_them_is_not_of_this_layout(make_folder):
    root = make_folder()
    write(root / "train", image=[b"x"])
    assert recognized(root) == "folder"
