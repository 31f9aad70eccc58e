"""Collectives and process groups; the only module that imports ``torch.distributed``.

``torchrun`` starts the processes. Without it there is a single process, and every function below is the
identity, a constant or a no-op, so callers never need to distinguish the two cases.
"""

import contextlib
import datetime
import hashlib
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from msbreg.run.errors import UserError
from msbreg.run.synchronized_norm import Collectives, synchronized_everywhere

# Control messages (stop, save, failure) are sent over the CPU, so that no GPU waits for them. None is the
# default group, which already is a CPU group if the device is the CPU.
_cpu_group: Any = None
_alone = False
_keep = False
_LONGEST_WAIT = datetime.timedelta(days=30)
"""On the CPU. Processes wait for work of very different length; a process that ends is noticed at once."""

_SECONDS_FOR_AGENT = datetime.timedelta(seconds=10)

T = TypeVar("T")


def start(device: torch.device) -> None:
    """Join torchrun's process group; do nothing if the process was not started by torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        join(device)


def join(device: torch.device) -> None:
    """Join the process group in the environment, even one of a single process."""
    global _cpu_group
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device)
        _cpu_group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    else:
        dist.init_process_group("gloo", timeout=_LONGEST_WAIT)


def stop() -> None:
    """Leave the process group, except inside ``kept``."""
    global _cpu_group
    if dist.is_initialized() and not _keep:
        dist.destroy_process_group()
        _cpu_group = None


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Stay in the process group between several runs in this process.

    Under torchrun, whose store outlives the group, joining a second time waits forever.
    """
    global _keep
    _keep = True
    try:
        yield
    finally:
        _keep = False
        stop()


def _grouped() -> bool:
    """Whether this process exchanges messages with others."""
    return dist.is_initialized() and not _alone


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Every function below behaves inside as in a single process, while the other processes wait."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """Index of this process, from 0."""
    return dist.get_rank() if _grouped() else 0


def _several() -> bool:
    return world_size() > 1


def is_main() -> bool:
    """Whether this is the process that writes files and prints messages."""
    return rank() == 0


def pick_device(name: str) -> torch.device:
    """The device named ``auto``, ``cpu``, ``cuda`` or ``cuda:N``. Each local process gets its own GPU.

    Raises:
        UserError: the name is unknown, or the GPU is not available.
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
            f"device {name!r} cannot be used with several processes; expected cuda, with which each "
            "process takes its own GPU"
        )
    index = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
    if index >= available:
        raise UserError(
            f"device {name!r} requires GPU {index}, but PyTorch finds {available} GPUs.\n"
            "Use --device cpu, or check the driver with: nvidia-smi"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def any_of(flags: Sequence[bool]) -> list[bool]:
    """For each flag, whether it is set in any process. Exchanged over the CPU."""
    if not _grouped():
        return list(flags)
    total = torch.tensor(list(flags), dtype=torch.uint8)
    dist.all_reduce(total, op=dist.ReduceOp.MAX, group=_cpu_group)
    return [bool(flag) for flag in total.tolist()]


def barrier() -> None:
    """Wait until every process reaches this call."""
    if _grouped():
        dist.barrier(group=_cpu_group)


def gather_objects(value: Any) -> list[Any]:
    """The values of all processes, ordered by rank. Exchanged over the CPU."""
    if not _grouped():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group=_cpu_group)
    return values


def from_main(make: Callable[[], T]) -> T:
    """Call ``make`` in the main process only, ``alone``, and return its result in every process.

    An error raised by ``make`` is raised in every process, so that none waits for the others.
    """
    if not _grouped():
        return make()
    outcome: list[tuple[Any, Exception | None]] = [(None, None)]
    if is_main():
        try:
            with alone():
                outcome = [(make(), None)]
        except Exception as error:  # noqa: BLE001 - raised again below, in every process
            outcome = [(None, error)]
    dist.broadcast_object_list(outcome, group=_cpu_group)
    value, failure = outcome[0]
    if failure is not None:
        raise failure
    return value


def say_once(message: str, say: Callable[[str], None]) -> None:
    """Call ``say`` in the first of torchrun's processes that has this message; the others wait for it.

    Asks the store of torchrun's agent, so that it also works before and after the process group exists. If
    the agent cannot be reached, every process says it: a message that appears twice is better than none.
    """
    store = _agent_store()
    if store is None:
        say(message)
        return
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    digest = hashlib.sha256(message.encode(errors="surrogatepass")).hexdigest()
    key = f"msbreg/{attempt}/{digest}"
    if store.add(f"{key}/claimed", 1) == 1:
        say(message)
        store.set(f"{key}/said", "yes")
    else:  # torchrun ends all processes when one has ended, also the one that is about to say it
        with contextlib.suppress(RuntimeError):
            store.wait([f"{key}/said"], _SECONDS_FOR_AGENT)


def _agent_store() -> dist.TCPStore | None:
    """The store of torchrun's agent; None without torchrun, for a single process, or if it is unreachable."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not several or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        return dist.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=_SECONDS_FOR_AGENT,
        )
    except RuntimeError:  # among them DistNetworkError
        return None


def total(local: Tensor) -> Tensor:
    """The sum over all processes, without gradient."""
    if not _grouped():
        return local
    summed = local.detach().clone()
    dist.all_reduce(summed)
    return summed


def gather(
    local: Tensor,  # (N / world, ...)
) -> Tensor:  # (N, ...)
    """Concatenate the rows of all processes, ordered by rank; differentiable."""
    return _Gather.apply(local) if _grouped() else local


class _Gather(torch.autograd.Function):
    """All-gather whose backward pass sums the gradients of the local rows over all processes.

    If every process computes the same loss of the gathered rows, the local gradient is world_size times
    too large. Averaging over processes in ``data_parallel`` cancels this factor.
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


def gather_by_index(
    local: Tensor,  # (n of this process, ...), of the items range(rank, n, world)
    n: int,
) -> Tensor:  # (n, ...), on the CPU
    """Rows of all n items in every process, from processes that each computed every world-th item.

    Sizes need not divide: nothing is padded or repeated. Exchanged over the CPU.
    """
    parts = gather_objects(local.cpu())
    whole = torch.empty((n, *local.shape[1:]), dtype=local.dtype)
    for first, part in enumerate(parts):
        whole[first :: len(parts)] = part
    return whole


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> nn.Module:
    """Compute BatchNorm statistics over the rows of all processes, in every BatchNorm of the module.

    On CUDA by ``nn.SyncBatchNorm``, elsewhere by ``SynchronizedBatchNorm``; the two agree. A single process
    keeps its BatchNorms.
    """
    if not _grouped():
        return module
    return support_device(nn.SyncBatchNorm.convert_sync_batchnorm(module), device)


def support_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every ``nn.SyncBatchNorm``, which requires a GPU, by one that also works on the device."""
    if not _grouped() or device.type == "cuda":
        return module
    return synchronized_everywhere(module, Collectives(_several, gather))


@torch.no_grad()
def share_buffers(module: nn.Module) -> None:
    """Copy the first process's buffers, which checkpoints contain, to all processes.

    BatchNorm statistics differ between processes with plain BatchNorm, and precise ones slightly with SyncBN,
    since batches are weighted by their size in each process. With shared statistics, the scores are those of
    the checkpoint.
    """
    if not _grouped():
        return
    mine = {name: value.cpu() for name, value in module.named_buffers()}
    first = gather_objects(mine if is_main() else {})[0]
    for name, value in module.named_buffers():
        value.copy_(first[name])


def data_parallel(module: nn.Module) -> nn.Module:
    """Wrap the module in DistributedDataParallel, which averages gradients over processes.

    BatchNorm buffers are not broadcast: the forward pass does not use them in training, and checkpoints
    contain those of the main process.
    """
    if not _grouped():
        return module
    with warnings.catch_warnings():
        # PyTorch means to replace the option, but advises to keep it until the replacement is complete.
        warnings.filterwarnings("ignore", ".*broadcast_buffers. is deprecated", FutureWarning)
        return nn.parallel.DistributedDataParallel(module, broadcast_buffers=False)


@contextlib.contextmanager
def averaging(module: nn.Module, now: bool) -> Iterator[None]:
    """Average gradients over processes in this backward pass if ``now``, else accumulate them locally."""
    if now or not isinstance(module, nn.parallel.DistributedDataParallel):
        yield
    else:
        with module.no_sync():
            yield
