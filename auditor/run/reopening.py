"""Open model and data of a finished run again, as the run opened them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.data.dataset import Images
from auditor.data.location import Uri
from auditor.findings.record import Json
from auditor.model.deployed import DeployedModel
from auditor.model.device import pick_device
from auditor.plugin.registry import Registry
from auditor.plugin.suite import Suite
from auditor.run.opening import open_audit, open_model
from auditor.run.replay import model_tables
from auditor.run.request import Request
from auditor.run.sandbox import load_in_sandbox
from auditor.run.stored import StoredRun


def reopen_model(run: StoredRun, path: Path, device: str, *, trust: bool) -> DeployedModel:
    """Open a model file with the properties of the audited one. Raises BadInput for an unusable file."""
    return open_model(path, device, _tables(run), trust=trust)


def reopen_data(
    run: StoredRun, plugins: Registry, model: Path, data: Path | Uri, device: str, *, trust: bool
) -> Images:
    """Read the images of a path that the run drew. Raises BadInput for unusable files."""
    manifest = run.manifest
    request = Request(
        model=model,
        data=data,
        samples=manifest["data"]["samples"],
        seed=manifest["seed"],
        device=device,
        overrides=_tables(run),
        trust_model=trust,
        # what is verified is read
        fresh=True,
    )
    load_in_sandbox(model, request.overrides, trust=trust).finish()
    suite = Suite(name=manifest["suite"], title="", probes=())
    return open_audit(plugins, request, suite, pick_device(device))[1]


def _tables(run: StoredRun) -> dict[str, dict[str, Json]]:
    """Return what the run used, in the tables of the sidecar, so that no sidecar is needed."""
    given: Mapping[str, Mapping[str, Any]] = run.manifest["overrides"]
    tables = model_tables(run.audit["model"], same_file=True)
    if run.audit["data"].get("kind", "images") == "rows":
        # mean, std and size of tabular data come from the table
        tables.pop("input")
    elif run.manifest["data"]["resizing"]:
        resizing = run.manifest["data"]["resizing"]
        tables["input"] |= {key: value for key, value in resizing.items() if value is not None}
    units = run.audit["data"].get("units")
    if units is not None:
        tables["data"] = {"unit": units["name"]}
    return {name: {**tables.get(name, {}), **given.get(name, {})} for name in [*tables, *given]}
