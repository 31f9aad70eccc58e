import numpy as np
import pytest

from msbreg.data.sources import open_source, recognized
from msbreg.run.errors import UserError
from tests.msbreg.data.classification.fine_grained_trees import cifar10_tree, cifar100_tree


def test_images_of_several_files_are_read_row_by_row(tmp_path):
    written = cifar10_tree(tmp_path)
    images = open_source(f"cifar10:{tmp_path}", "train")
    assert len(images) == 20
    for i in (0, 3, 4, 19):
        np.testing.assert_array_equal(images.image(i), written[i])
    assert images.labels.tolist() == [0, 1] * 10
    assert images.classes == ("airplane", "automobile")
    assert images.entry(5) == "data_batch_2.bin:1"


def test_the_fine_label_of_cifar100_is_the_second_byte(tmp_path):
    written = cifar100_tree(tmp_path)
    images = open_source(f"cifar100:{tmp_path}", "test")
    assert images.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(images.image(3), written[11])
    assert recognized(tmp_path) == "cifar100"


def test_the_files_may_lie_in_the_root(tmp_path):
    cifar10_tree(tmp_path)
    inner = open_source(f"cifar10:{tmp_path / 'cifar-10-batches-bin'}", "test")
    assert inner.fingerprint == open_source(f"cifar10:{tmp_path}", "test").fingerprint


def test_the_python_version_is_refused_and_never_unpickled(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(UserError, match="pickles, which can run code; download the binary version"):
        open_source(f"cifar10:{tmp_path}", "test")


def test_one_changed_byte_changes_the_fingerprint(tmp_path):
    cifar10_tree(tmp_path)
    before = open_source(f"cifar10:{tmp_path}", "test").fingerprint
    file = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    content = bytearray(file.read_bytes())
    content[500] ^= 1
    file.write_bytes(content)
    assert open_source(f"cifar10:{tmp_path}", "test").fingerprint != before


def test_truncated_files_and_labels_out_of_range_are_rejected(tmp_path):
    cifar10_tree(tmp_path)
    file = tmp_path / "cifar-10-batches-bin" / "test_batch.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(UserError, match="has 18437 bytes; expected a multiple of 3073"):
        open_source(f"cifar10:{tmp_path}", "test")
    file.write_bytes(bytes([9]) + content[1:])
    with pytest.raises(UserError, match="the label of image 0 is 9"):
        open_source(f"cifar10:{tmp_path}", "test")
