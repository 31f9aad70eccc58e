"""BatchNorm over one process in place of SyncBatchNorm, which PyTorch has on CUDA only."""

from torch import nn


def without_synchronisation(module: nn.Module) -> nn.Module:
    """The module with every SyncBatchNorm replaced, in place, by a BatchNorm of the same state."""
    for name, child in module.named_children():
        if isinstance(child, nn.SyncBatchNorm):
            plain = nn.BatchNorm2d(child.num_features, child.eps, child.momentum)
            plain.load_state_dict(child.state_dict())
            setattr(module, name, plain)
        else:
            without_synchronisation(child)
    return module


def has_local_norms(module: nn.Module) -> bool:
    """Whether a BatchNorm in it averages over its own process alone (naiveSyncBN does not)."""
    return any(type(child) is nn.BatchNorm2d for child in module.modules())
