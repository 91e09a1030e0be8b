"""MLflow: a finished audit becomes a run with metrics, reports and records.

``AUDITOR_PUBLISH=mlflow`` switches it on; MLflow's own variables name the server (``MLFLOW_TRACKING_URI``), the
experiment (``MLFLOW_EXPERIMENT_NAME``) and an existing run (``MLFLOW_RUN_ID``). ``AUDITOR_MLFLOW_MODEL=name/version``
also marks a registered model with the verdict.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from auditor import BadInput, hookimpl
from auditor.plugins.publishers._wanted import VARIABLE, facts, flat_metrics, wanted

if TYPE_CHECKING:
    from auditor import FinishedRun

_BATCH = 1000
"""Metrics that MLflow accepts in one request."""


@hookimpl
def auditor_run_finished(run: FinishedRun) -> None:
    """Log the run to MLflow, if ``AUDITOR_PUBLISH`` names it."""
    if wanted("mlflow"):
        _publish(run)


def _publish(run: FinishedRun) -> None:
    try:
        from mlflow import MlflowClient
    except ImportError:
        raise BadInput(f"{VARIABLE}=mlflow: MLflow is not installed; pip install 'auditor[mlflow]'") from None
    model = _registered_model()
    client = MlflowClient()
    run_id = os.environ.get("MLFLOW_RUN_ID") or _new_run(client, run)
    _log(client, run_id, run)
    if model is not None:
        for key, value in {"auditor.verdict": run.audit["verdict"], "auditor.run_id": run_id}.items():
            client.set_model_version_tag(*model, key, value)


def _registered_model() -> tuple[str, str] | None:
    """Return name and version of the registered model; None if none is named. Raises BadInput for other text."""
    stated = os.environ.get("AUDITOR_MLFLOW_MODEL", "")
    name, _, version = stated.rpartition("/")
    if stated and not (name and version.isdigit()):
        raise BadInput(f"AUDITOR_MLFLOW_MODEL is {stated!r}; expected name/version, such as digits/3")
    return (name, version) if stated else None


def _new_run(client: Any, run: FinishedRun) -> str:
    """Create a run in the experiment that MLflow's variables name."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
    experiment = client.get_experiment_by_name(name)
    experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
    created = client.create_run(experiment_id, run_name=f"audit {run.folder.name}")
    return str(created.info.run_id)


def _log(client: Any, run_id: str, run: FinishedRun) -> None:
    """Log metrics with their intervals, what was audited, the reports and the records."""
    from time import time

    from mlflow.entities import Metric, RunTag

    now = int(time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in flat_metrics(run.audit).items()]
    client.log_batch(run_id, tags=[RunTag(*each) for each in facts(run.audit).items()])
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
    for file in run.files:
        client.log_artifact(run_id, str(file), "audit")
    client.log_artifacts(run_id, str(run.folder / "records"), "audit/records")
    if not os.environ.get("MLFLOW_RUN_ID"):
        client.set_terminated(run_id)
