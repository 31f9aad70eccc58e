"""What a task waits for: the tasks that it needs, and the verdict on its network."""

from collections.abc import Container, Sequence

from transfer.orchestration.protocols import GATE
from transfer.orchestration.task import Task


def waits_for(task: Task, tasks: Sequence[Task]) -> tuple[str, ...]:
    """Keys of the tasks that must have ended before a task starts.

    Those that it needs, and the gate of its network. An untrained twin waits for all gates, because it runs
    only if one of the checkpoints has learned something.

    >>> from msbreg.run.config import Card
    >>> gate = Task("a", "gate", "gate", None, Card())
    >>> probe = Task("a", "linear", "linear", None, Card())
    >>> scores = Task("a", "imagenet-r", "robustness", None, Card(), needs=("a/linear",))
    >>> twin = Task("random-0", "knn", "knn", None, Card())
    >>> [waits_for(task, [gate, probe, scores, twin]) for task in (gate, probe, scores)]
    [(), ('a/gate',), ('a/linear', 'a/gate')]
    >>> waits_for(twin, [gate, probe, scores, twin])
    ('a/gate',)
    """
    known = {other.key for other in tasks}
    gates = [other for other in tasks if other.script == GATE]
    own = [gate for gate in gates if gate.network == task.network] or gates
    needs = [key for key in task.needs if key in known]
    if task.script == GATE:
        return tuple(needs)
    return tuple(dict.fromkeys([*needs, *(gate.key for gate in own)]))


def first_ready(
    waiting: Sequence[Task], tasks: Sequence[Task], ended: Container[str]
) -> Task | None:
    """The first waiting task that has nothing left to wait for; None if there is none."""
    for task in waiting:
        if all(key in ended for key in waits_for(task, tasks)):
            return task
    return None
