import math

import pytest

from msbreg.train.optimizers import target_decay, warmup_cosine


def test_linear_warmup_joins_the_cosine_at_its_peak():
    values = [warmup_cosine(s, 100, peak=2.0, warmup=10) for s in range(101)]
    assert values[0] == 0
    assert values[5] == pytest.approx(1.0)
    assert values[10] == pytest.approx(2.0)
    assert values[55] == pytest.approx(1.0)  # half-way down
    assert values[100] == pytest.approx(0.0)
    assert values[10:] == sorted(values[10:], reverse=True)


def test_warmup_start_and_final_rate_are_respected():
    assert warmup_cosine(0, 100, peak=2.0, warmup=10, start=0.5) == 0.5
    assert warmup_cosine(100, 100, peak=2.0, warmup=0, final=0.1) == pytest.approx(0.1)


def test_no_warmup_starts_at_the_peak():
    assert warmup_cosine(0, 10, peak=2.0, warmup=0) == 2.0


def test_warmup_over_the_whole_run_does_not_divide_by_zero():
    assert warmup_cosine(10, 10, peak=2.0, warmup=10) == 2.0


def test_target_decay_matches_the_formula_of_byol():
    for step in (0, 30, 100):
        expected = 1 - 0.004 * (math.cos(math.pi * step / 100) + 1) / 2
        assert target_decay(step, 100, base=0.996) == pytest.approx(expected)
    assert target_decay(0, 100, base=0.996) == pytest.approx(0.996)
    assert target_decay(100, 100, base=0.996) == 1.0
