from msbreg.run.record import read_record
from tests.transfer import test_protocols
from tests.transfer.test_protocols import common
from transfer import linear

checkpoint, data = test_protocols.checkpoint, test_protocols.data  # fixtures


def test_a_single_learning_rate_needs_no_selection(tmp_path, data, checkpoint):
    settings = common(tmp_path, data, checkpoint)
    linear.run(linear.Config(**settings, learning_rates=(0.1,), epochs=2))
    record = read_record(tmp_path / "run")
    assert record["selection"] == "nothing is selected: one learning rate was given"
    assert record["results"]["held_out_top1"] == {}


def test_linear_chooses_on_held_out_training_images(tmp_path, data, checkpoint):
    config = linear.Config(**common(tmp_path, data, checkpoint), epochs=20, standardize=True)
    results = linear.run(config)
    record = read_record(tmp_path / "run")
    assert record["selection"] == (
        "learning rate on 10 % of the training images, held out; then trained on all 30"
    )
    assert results["learning_rate"] in config.learning_rates
    assert len(results["held_out_top1"]) == 5
    assert results["top1"] > 50  # three color casts, chance 33
    assert linear.run(linear.Config(**vars(config) | {"output": tmp_path / "b"})) == results
