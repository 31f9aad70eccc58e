"""Whether a run on several processes computes what one process computes with the same batch."""

from typing import Literal

from pretrain.recipe import Config


def equivalent(
    config: Config,
    processes: int,
    *,
    before: Literal[True] | list[str] = True,
) -> Literal[True] | list[str]:
    """True, or what differs from a run on one process with the same batch, other than the order of sums.

    Images, views and noise are functions of the seed and the step, and losses see the images of all
    processes, so only settings that confine a statistic to each process can make a difference.

    Args:
        before: the value for the part of the run before it was interrupted.

    >>> equivalent(Config(), 8)
    True
    >>> equivalent(Config(sync_bn=False), 8)
    ['BatchNorm statistics are per process (sync_bn=false)']
    >>> equivalent(Config(sync_bn=False), 1)
    True
    """
    found = [] if before is True else list(before)
    if processes > 1:
        if not config.sync_bn:
            found.append("BatchNorm statistics are per process (sync_bn=false)")
        minimized = config.method == "msbreg" or "singular_value" in config.add
        if minimized and not config.loss.singular_sync:
            found.append("the covariance is per process (loss.singular_sync=false)")
    return list(dict.fromkeys(found)) or True
