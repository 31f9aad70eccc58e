"""Figures that a process has drawn, by the content of their files.

The suite writes the report after each of its tasks; only figures of new or changed files are drawn then.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

MOST = 1000  # figures; the least recently used ones are dropped
Drawn = TypeVar("Drawn")

_KEPT: OrderedDict[str, Any] = OrderedDict()


def remembered(
    draw: Callable[[], Drawn],
    content: bytes,  # of the file
    *settings: object,  # what else the figure depends on; different settings have different texts
) -> Drawn:
    """The result of ``draw()``, or that of an earlier call from its module with this content and settings.

    Errors are not remembered. The result must not be changed.

    >>> remembered(lambda: "a", b"file", 1), remembered(lambda: "b", b"file", 1)
    ('a', 'a')
    >>> remembered(lambda: "b", b"another file", 1)
    'b'
    """
    digest = hashlib.sha256(content)
    digest.update(repr((draw.__module__, settings)).encode(errors="replace"))
    key = digest.hexdigest()
    if key not in _KEPT:
        _KEPT[key] = draw()
    _KEPT.move_to_end(key)
    while len(_KEPT) > MOST:
        _KEPT.popitem(last=False)
    return _KEPT[key]
