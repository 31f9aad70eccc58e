"""The program of each of several processes; started by test_distributed.py."""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import normalize

from msbreg.run import distributed
from pretrain.methods import build_method
from pretrain.recipe import Config, HeadSettings, LossSettings, OptimizerSettings
from pretrain.training import PreTraining
from pretrain.view_batches import ViewBatch
from tests.pretrain.methods.small_methods import ALL, IMAGES, OWN

CPU = torch.device("cpu")
STEPS = 5  # of ``changes``


def training_of(
    method: str,
    norm: str,
    options: dict,
    device: torch.device = CPU,
    *,
    views: int = 3,
    steps: int = 1,
    synchronize: bool = True,
) -> PreTraining:
    """Training of a small network on batches of 8 images."""
    torch.set_num_threads(1)
    config = Config(
        method=method,
        arch="resnet18-tiny",
        batch_size=8,
        views=views,
        lambda_s=0.1,
        lambda_b=0.7,
        head_norm=norm,
        head=HeadSettings(hidden=16, out=8),
        loss=LossSettings(**options),
        optimizer=OptimizerSettings(base_lr=0.01, warmup_epochs=0),
        **({method: OWN[method]} if method in OWN else {}),
    )
    made = build_method(config)
    made.allocate(IMAGES)
    if "embeddings" in made.memory:  # DeepCluster-v2 would fill it in training mode
        rows = torch.randn(3, IMAGES, 8, generator=torch.Generator().manual_seed(2))
        made.memory["embeddings"] = normalize(rows, dim=-1)
    made.to(device, synchronize=synchronize)
    made.train_mode()
    if norm != "bn":  # local statistics would differ: BatchNorm of the backbones in eval mode
        for network in made.networks().values():
            network.get_submodule("backbone").eval()
    return PreTraining(made, config, device, steps=steps, epoch=steps)


def backward(training: PreTraining, forward: torch.nn.Module, step: int) -> dict[str, float]:
    """Compute the gradient of one step on this process's part of the batch; return the loss terms."""
    generator = torch.Generator().manual_seed(1 + step)
    shape = (training.config.views, 8, 3, 16, 16)
    views = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
    share = 8 // distributed.world_size()
    first = distributed.rank() * share
    images = torch.arange(first, first + share)
    batch = ViewBatch(list(views[:, first : first + share]), images)
    parts = training.losses(forward, batch, step)
    terms: dict = {}
    for number in range(training.parts):
        with distributed.averaging(forward, now=number == training.parts - 1):
            loss = next(parts)
            loss.total.backward()
        for name, value in loss.terms.items():
            terms[name] = terms.get(name, 0) + float(value.detach())
    return terms


def gradient_of_one_step(method: str, norm: str, options: dict, device: torch.device = CPU) -> dict:
    """The loss terms and gradients of one step."""
    training = training_of(method, norm, options, device)
    terms = backward(training, distributed.data_parallel(training.model), 0)
    gradients = {name: p.grad.cpu() for name, p in training.model.named_parameters()}
    return {"terms": terms, "gradients": gradients}


def changes(method: str, *, synchronize: bool = True) -> torch.Tensor:
    """How far all parameters of both networks are from their initial values after some steps."""
    training = training_of(
        method, "bn", {"singular_sync": True}, views=2, steps=STEPS, synchronize=synchronize
    )
    forward = distributed.data_parallel(training.model)
    networks = (training.method.online, training.method.target)
    start = parameters(networks)
    for step in range(STEPS):
        rates = training.learning_rates(step)
        for group, rate in zip(training.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        training.optimizer.zero_grad()
        backward(training, forward, step)
        training.optimizer.step()
        training.after_step(step)
    return parameters(networks) - start


def parameters(networks: Sequence[torch.nn.Module]) -> torch.Tensor:
    """All parameters as one vector."""
    return torch.cat([p.detach().flatten() for network in networks for p in network.parameters()])


def gather_with_gradient() -> dict:
    """A weighted sum of squares over the rows of both processes."""
    local = (torch.arange(3.0) + 10 * distributed.rank()).requires_grad_()
    joined = distributed.gather(local)
    loss = (joined.square() * torch.arange(1.0, len(joined) + 1)).sum()
    loss.backward()
    return {"joined": joined.detach(), "gradient": local.grad}


if __name__ == "__main__":
    output, task = Path(sys.argv[1]), sys.argv[2]
    device = distributed.pick_device("cuda") if task.endswith("cuda") else CPU
    distributed.start(device)
    if task == "gather":
        result = gather_with_gradient()
        result["any"] = distributed.any_of([distributed.rank() == 1, False])
        result["objects"] = distributed.gather_objects(f"from {distributed.rank()}")
    elif task == "methods":
        result = {
            method: gradient_of_one_step(method, "ln", {"singular_sync": True})
            for method in ALL
            if method not in ("msbreg", "byol")
        }
    elif task == "synchronized":
        result = {
            m: gradient_of_one_step(m, "bn", {"singular_sync": True}) for m in ("msbreg", "byol")
        }
        if distributed.world_size() == 2:
            result |= {"changes": changes("msbreg"), "local": changes("msbreg", synchronize=False)}
    else:
        method, norm, sync, _ = task.split("-")
        result = gradient_of_one_step(method, norm, {"singular_sync": sync == "sync"}, device)
    torch.save(result, output / f"{distributed.rank()}.pt")
    distributed.stop()
