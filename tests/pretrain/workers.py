"""The program of each of two gloo processes; started by test_distributed.py."""

import sys
from pathlib import Path

import torch

from msbreg.run import distributed
from pretrain.methods import build_method
from pretrain.recipe import Config, HeadSettings, LossSettings
from pretrain.training import PreTraining
from pretrain.view_batches import ViewBatch

CPU = torch.device("cpu")


def gradient_of_one_step(method: str, norm: str, options: dict, device: torch.device = CPU) -> dict:
    """The loss terms and gradients of one step on this process's part of a batch of 8 images."""
    torch.set_num_threads(1)
    config = Config(
        method=method,
        arch="resnet18-tiny",
        batch_size=8,
        views=3,
        lambda_s=0.1,
        lambda_b=0.7,
        head_norm=norm,
        head=HeadSettings(hidden=16, out=8),
        loss=LossSettings(**options),
    )
    made = build_method(config)
    made.to(device, synchronize=norm == "bn")  # on CUDA: every BatchNorm is synchronized
    made.train_mode()
    if norm != "bn":  # no SyncBatchNorm on the CPU: put the BatchNorm of the backbones in eval mode
        made.online.backbone.eval()
        made.target.backbone.eval()
    training = PreTraining(made, config, device, steps=1, epoch=1)
    generator = torch.Generator().manual_seed(1)
    views = torch.randint(0, 256, (3, 8, 3, 16, 16), generator=generator).to(torch.uint8)
    share = 8 // distributed.world_size()
    first = distributed.rank() * share
    wrapped = distributed.data_parallel(training.model)
    parts = training.losses(
        wrapped, ViewBatch(list(views[:, first : first + share]), torch.arange(share)), 0
    )
    terms: dict = {}
    for number in range(training.parts):
        with distributed.averaging(wrapped, now=number == training.parts - 1):
            loss = next(parts)
            loss.total.backward()
        terms = {name: terms.get(name, 0) + float(value) for name, value in loss.terms.items()}
    return {
        "terms": terms,
        "gradients": {name: p.grad.cpu() for name, p in training.model.named_parameters()},
    }


def gather_with_gradient() -> dict:
    """A weighted sum of squares over the rows of both processes."""
    local = (torch.arange(3.0) + 10 * distributed.rank()).requires_grad_()
    joined = distributed.gather(local)
    loss = (joined.square() * torch.arange(1.0, len(joined) + 1)).sum()
    loss.backward()
    return {"joined": joined.detach(), "gradient": local.grad}


if __name__ == "__main__":
    output, task = Path(sys.argv[1]), sys.argv[2]
    device = distributed.pick_device("cuda") if "-bn-" in task else CPU
    distributed.start(device)
    if task == "gather":
        result = gather_with_gradient()
        result["any"] = distributed.any_of([distributed.rank() == 1, False])
        result["objects"] = distributed.gather_objects(f"from {distributed.rank()}")
    else:
        method, norm, sync = task.split("-")
        result = gradient_of_one_step(method, norm, {"singular_sync": sync == "sync"}, device)
    torch.save(result, output / f"{distributed.rank()}.pt")
    distributed.stop()
