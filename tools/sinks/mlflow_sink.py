"""Send completed runs to MLflow. The only file that imports mlflow.

The store is MLflow's MLFLOW_TRACKING_URI: a server, or a local one such as file:/data/mlruns.
"""

import hashlib
import re
from datetime import datetime

from mlflow import MlflowClient
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    MAX_METRICS_PER_BATCH,
    MAX_PARAM_VAL_LENGTH,
    MAX_PARAMS_TAGS_PER_BATCH,
)

from msbreg.run.errors import UserError
from tools.sinks.finished_run import FinishedRun

ID = "msbreg.id"
"""Tag of a run: the id of the record, by which a sent run is found again."""
LONGEST_NAME = 250


class MlflowSink:
    """An experiment of MLflow, made if it does not exist.

    Raises:
        UserError: the store cannot be used.
    """

    def __init__(self, project: str) -> None:
        try:
            self.client = MlflowClient()
            found = self.client.get_experiment_by_name(project)
            self.experiment = (
                found.experiment_id if found else self.client.create_experiment(project)
            )
        except MlflowException as error:
            raise UserError(f"MLflow: {error}") from error

    def has(self, run: FinishedRun) -> bool:
        """Whether the store has this run, completely sent.

        Raises:
            UserError: the store cannot be read.
        """
        try:
            return "FINISHED" in self._sent(run).values()
        except MlflowException as error:
            raise UserError(f"MLflow cannot look for {run.folder}: {error}") from error

    def send(self, run: FinishedRun) -> str:
        """Send a run, in place of one whose sending was interrupted; returns its id in MLflow.

        Raises:
            UserError: MLflow refuses.
        """
        try:
            for unfinished in self._sent(run):
                self.client.delete_run(unfinished)
            return self._send(run)
        except MlflowException as error:
            raise UserError(f"MLflow cannot store {run.folder}: {error}") from error

    def _sent(self, run: FinishedRun) -> dict[str, str]:
        """Id in MLflow -> status, of the runs with this record."""
        found = self.client.search_runs([self.experiment], f"tags.`{ID}` = '{run.id}'")
        return {one.info.run_id: one.info.status for one in found}

    def _send(self, run: FinishedRun) -> str:
        tags = {ID: run.id, "msbreg.kind": run.kind}
        sent = self.client.create_run(self.experiment, run_name=run.name, tags=tags).info.run_id
        params = [
            Param(stored_name(name), str(value)[:MAX_PARAM_VAL_LENGTH])
            for name, value in run.settings.items()
        ]
        now = int(datetime.now().timestamp() * 1000)  # MLflow counts milliseconds
        metrics = [Metric(stored_name(name), value, now, 0) for name, value in run.metrics.items()]
        metrics += [
            Metric(stored_name(f"curve/{name}"), value, now, step)
            for step, row in run.history
            for name, value in row.items()
        ]
        for first in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
            part = params[first : first + MAX_PARAMS_TAGS_PER_BATCH]
            self.client.log_batch(sent, params=part)
        for first in range(0, len(metrics), MAX_METRICS_PER_BATCH):
            self.client.log_batch(sent, metrics=metrics[first : first + MAX_METRICS_PER_BATCH])
        self.client.log_artifact(sent, str(run.record))
        self.client.set_terminated(sent, "FINISHED")
        return sent


def stored_name(name: str) -> str:
    """A name that MLflow accepts: other characters become ``_``, and long names end with a digest.

    A name that had to be changed ends with a digest, so that different names stay different.
    """
    accepted = re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)
    if accepted == name and len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{accepted[: LONGEST_NAME - len(digest) - 1]} {digest}"
