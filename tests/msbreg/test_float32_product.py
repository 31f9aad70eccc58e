"""Both routes give the product of `@`; a missing private operator is handled."""

import pytest
import torch

from msbreg import float32_product
from msbreg.float32_product import full_precision, matmul, onednn_product, product


@pytest.fixture
def matrices():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 300, generator=generator) for rows in (37, 53)]


@pytest.mark.skipif(onednn_product() is None, reason="this PyTorch has no oneDNN operator")
def test_onednn_gives_the_product_of_matmul(matrices):
    left, right = matrices
    with full_precision():
        found = onednn_product()(left, right)
    # Float32 sums of 300 products in another order; the product in bfloat16 would differ by 0.1.
    torch.testing.assert_close(found, left @ right.T, rtol=1e-5, atol=1e-4)


def test_the_chosen_route_gives_the_product_of_float64(matrices):
    left, right = matrices
    expected = (left.double() @ right.double().T).float()
    torch.testing.assert_close(product(left, right), expected, rtol=1e-5, atol=1e-4)


class Operators:
    """PyTorch's oneDNN operators without the private one."""


class ChangedOperators:
    """With one that takes other arguments."""

    _linear_pointwise = staticmethod(lambda left, right: left)


@pytest.mark.parametrize("operators", [Operators, ChangedOperators])
def test_without_the_private_operator_the_product_is_matmul(matrices, monkeypatch, operators):
    left, right = matrices
    monkeypatch.setattr(torch.ops, "mkldnn", operators())
    monkeypatch.setattr(float32_product, "mkl_is_fast", lambda: False)
    onednn_product.cache_clear()
    try:
        assert onednn_product() is None
        assert torch.equal(product(left, right), matmul(left, right))
    finally:
        onednn_product.cache_clear()


def test_full_precision_restores_the_setting_even_after_an_error(matrices):
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ZeroDivisionError), full_precision():
        assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
        raise ZeroDivisionError
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_matmul_multiplies_by_the_transpose(matrices):
    left, right = matrices
    assert torch.equal(matmul(left, right), left @ right.T)


def test_a_product_in_given_memory_is_that_in_new_memory(matrices):
    memory = torch.full((37, 53), torch.nan)
    assert torch.equal(product(*matrices, memory), product(*matrices))
