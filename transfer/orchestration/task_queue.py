"""Which task of a suite can start next, and what the failure of one means for the others."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from msbreg.run.errors import RunFailed, UserError
from transfer.orchestration.task import Task, dependents


@dataclass(frozen=True)
class Failure:
    """Why a task failed.

    Attributes:
        reason: the message of the error.
        wrong_input: whether the user must change something before it can succeed.
    """

    reason: str
    wrong_input: bool = False


@dataclass
class TaskQueue:
    """Tasks that wait, run or have ended; what they need comes before them, or is done already.

    >>> from msbreg.run.config import Card
    >>> probe = Task("a", "linear", "linear", None, Card())
    >>> score = Task("a", "imagenet-r", "robustness", None, Card(), needs=("a/linear",))
    >>> queue = TaskQueue([probe, score, Task("a", "knn", "knn", None, Card())])
    >>> [queue.start().key, queue.start().key, queue.start()]
    ['a/linear', 'a/knn', None]
    >>> queue.end("a/linear", Failure("no space left"))
    >>> queue.start(), queue.skipped
    (None, {'a/imagenet-r': 'a/linear'})
    """

    tasks: Sequence[Task]
    done: list[str] = field(default_factory=list, init=False)
    failed: dict[str, Failure] = field(default_factory=dict, init=False)
    skipped: dict[str, str] = field(default_factory=dict, init=False)
    """Tasks that cannot run, and the failed task that each needs."""

    def __post_init__(self) -> None:
        self._waiting = {task.key: task for task in self.tasks}
        self._missing = set(self._waiting)  # what is not done yet
        assert len(self._waiting) == len(self.tasks), "two tasks have the same key"

    def start(self) -> Task | None:
        """The first waiting task whose needs are done, which is running from now on; None if none is."""
        for key, task in self._waiting.items():
            if not self._missing & set(task.needs):
                return self._waiting.pop(key)
        return None

    def end(self, key: str, failure: Failure | None = None) -> None:
        """Record the end of a running task. Those that need a failed one are skipped."""
        if failure is None:
            self._missing.remove(key)
            self.done.append(key)
            return
        self.failed[key] = failure
        for lost in sorted(dependents(self.tasks, [key]) & set(self._waiting)):
            del self._waiting[lost]
            self.skipped[lost] = key

    def raise_failures(self) -> None:
        """Tell the user which tasks failed, if any.

        Raises:
            UserError: tasks failed, all of them because of wrong input.
            RunFailed: tasks failed, at least one for another reason.
        """
        if not self.failed:
            return
        lines = [f"tasks that failed: {len(self.failed)} of {len(self.tasks)}"]
        lines += [f"  {key}: {failure.reason}" for key, failure in self.failed.items()]
        lines += [f"  {key}: not started, because it needs {n}" for key, n in self.skipped.items()]
        lines.append("The same command runs these again and keeps the others.")
        wrong = all(failure.wrong_input for failure in self.failed.values())
        raise (UserError if wrong else RunFailed)("\n".join(lines))
