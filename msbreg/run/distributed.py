"""The only import of ``torch.distributed``. Every function is also defined for one process.

Processes are started by ``torchrun``; without it there is one process, and each function below is
then the identity, a constant or a no-op, so that callers never ask.
"""

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from msbreg.run.errors import UserError

# Control messages (stop, save, a failure) travel over the CPU, so that no GPU waits for them. None is the
# default group, which is a CPU group already where the device is the CPU.
_cpu_group: Any = None

T = TypeVar("T")


def start(device: torch.device) -> None:
    """Join the process group that torchrun describes in the environment, if it does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        join(device)


def join(device: torch.device) -> None:
    """Join the process group in the environment, even one of a single process."""
    global _cpu_group
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
        _cpu_group = dist.new_group(backend="gloo")
    else:
        dist.init_process_group("gloo")


def stop() -> None:
    """Leave the process group."""
    global _cpu_group
    if dist.is_initialized():
        dist.destroy_process_group()
        _cpu_group = None


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks."""
    return rank() == 0


def pick_device(name: str) -> torch.device:
    """The device called ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; one GPU per local process.

    Raises:
        UserError: a GPU was asked for and there is none, or not as many.
    """
    available = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if available else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f"device {name!r} is unknown; expected auto, cpu, cuda or cuda:N"
        ) from error
    if device.type != "cuda":
        raise UserError(f"device {name!r} is not supported; expected auto, cpu, cuda or cuda:N")
    if device.index is not None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"device {name!r} with several processes; give cuda: each takes its own GPU"
        )
    index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
    if index >= available:
        raise UserError(
            f"device {name!r} asks for GPU {index}, but PyTorch sees {available} GPUs here.\n"
            "Use --device cpu, or check the driver with: nvidia-smi"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def any_of(flags: Sequence[bool]) -> list[bool]:
    """Whether each flag holds in any process; all learn it at the same moment, over the CPU."""
    if not dist.is_initialized():
        return list(flags)
    total = torch.tensor(list(flags), dtype=torch.uint8)
    dist.all_reduce(total, op=dist.ReduceOp.MAX, group=_cpu_group)
    return [bool(flag) for flag in total.tolist()]


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier(group=_cpu_group)


def gather_objects(value: Any) -> list[Any]:
    """Each process's value, in the order of ranks, on every process, over the CPU."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_cpu_group)
    return values


def from_main(make: Callable[[], T]) -> T:
    """What ``make`` returns on process 0, on every process; the others do not call it.

    An error that it raises is raised on every process, so that none waits for the others.
    """
    if not dist.is_initialized():
        return make()
    outcome: list[tuple[Any, Exception | None]] = [(None, None)]
    if is_main():
        try:
            outcome = [(make(), None)]
        except Exception as error:  # noqa: BLE001 - raised again below, on every process
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, group=_cpu_group)
    value, failure = outcome[0]
    if failure is not None:
        raise failure
    return value


def gather(
    local: Tensor,  # (N / world, ...)
) -> Tensor:  # (N, ...)
    """The rows of all processes, in the order of ranks, with gradient."""
    return _Gather.apply(local) if dist.is_initialized() else local


class _Gather(torch.autograd.Function):
    """All-gather whose backward adds what every process's loss asks of the local rows.

    When each process computes the same loss of the joined rows, the local gradient comes out
    world_size times too large, which is what the mean over processes of ``data_parallel`` undoes.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor) -> Tensor:
        ctx.rows = len(local)
        parts = [torch.empty_like(local) for _ in range(world_size())]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        first = rank() * ctx.rows
        return total[first : first + ctx.rows]


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """BatchNorm over the images of all processes. CUDA only: PyTorch has no SyncBatchNorm on the CPU."""
    if dist.is_initialized() and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    return module


def data_parallel(module: nn.Module) -> nn.Module:
    """The module with gradients averaged over processes (DistributedDataParallel).

    BatchNorm buffers are not broadcast: in training they do not enter the forward pass, and the ones
    that are saved are those of process 0.
    """
    if not dist.is_initialized():
        return module
    with warnings.catch_warnings():
        # PyTorch means to replace the option, but advises to keep it until the replacement is complete.
        warnings.filterwarnings("ignore", ".*broadcast_buffers. is deprecated", FutureWarning)
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


@contextlib.contextmanager
def averaging(module: nn.Module, now: bool) -> Iterator[None]:
    """Average gradients over processes in this backward pass, or add them up locally for later."""
    if now or not isinstance(module, nn.parallel.DistributedDataParallel):
        yield
    else:
        with module.no_sync():
            yield
