import torch

from msbreg.run.host_to_device import to_device
from tests.fake_cuda import CUDA, devices, fake_cuda


def test_on_the_cpu_nothing_is_copied():
    values = torch.arange(3)
    assert to_device(values, torch.device("cpu")) is values


def test_an_expanded_tensor_keeps_its_shape_and_type_on_the_gpu():
    with fake_cuda():
        moved = to_device(torch.zeros(1, 4, dtype=torch.float64).expand(3, 4), CUDA)
    assert devices(moved) == {"cuda"}
    assert (moved.shape, moved.dtype) == ((3, 4), torch.float64)


def test_a_tensor_on_the_gpu_stays_there():
    with fake_cuda():
        values = torch.empty(3, device=CUDA)
        assert to_device(values, CUDA) is values
