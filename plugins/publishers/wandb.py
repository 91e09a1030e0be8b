"""Weights & Biases: a finished audit becomes a run with metrics, and an artifact with reports and records.

``AUDITOR_PUBLISH=wandb`` switches it on; the library reads its own variables: ``WANDB_PROJECT``, ``WANDB_ENTITY``,
``WANDB_DIR``, and ``WANDB_MODE=offline`` to write to disk only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor import BadInput, hookimpl
from auditor.plugins.publishers._wanted import VARIABLE, facts, flat_metrics, wanted

if TYPE_CHECKING:
    from auditor import FinishedRun


@hookimpl
def auditor_run_finished(run: FinishedRun) -> None:
    """Log the run to Weights & Biases, if ``AUDITOR_PUBLISH`` names it."""
    if wanted("wandb"):
        _publish(run)


def _publish(run: FinishedRun) -> None:
    try:
        import wandb
    except ImportError:
        raise BadInput(f"{VARIABLE}=wandb: W&B is not installed; pip install 'auditor[wandb]'") from None
    # no code, hardware statistics or terminal output: only what the audit measured leaves the machine
    settings = wandb.Settings(silent=True, console="off", save_code=False, disable_git=True, x_disable_stats=True)
    name = f"audit {run.folder.name}"
    published = wandb.init(name=name, job_type="audit", config=facts(run.audit), settings=settings)
    try:
        published.summary.update(flat_metrics(run.audit))
        artifact = wandb.Artifact(f"audit-{published.id}", "audit")
        for file in run.files:
            artifact.add_file(str(file))
        artifact.add_dir(str(run.folder / "records"), "records")
        published.log_artifact(artifact)
    finally:
        published.finish()
        # ends the library's own process
        wandb.teardown()
