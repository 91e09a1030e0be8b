"""Identity of a run: the digest that records are stored under, and manifest.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import auditor
from auditor.data.dataset import Images
from auditor.errors import BadInput
from auditor.files import digest
from auditor.findings.encoding import plain
from auditor.findings.record import Json
from auditor.model.deployed import DeployedModel
from auditor.model.device import describe
from auditor.plugin.suite import Suite
from auditor.policy.rules import Policy
from auditor.probes.base import Probe
from auditor.run.folder import FORMAT, RunFolder
from auditor.run.plan import Plan, kept_plan, new_plan
from auditor.run.request import Progress, Request


class FileRecord(TypedDict):
    """An input of the run."""

    path: str
    sha256: str


class ImagesFileRecord(FileRecord):
    """The images of the run."""

    n: int
    measured_sha256: str
    """Digest without the units, which change intervals but not rows."""
    samples: int | None
    """The number of images that was asked for; None for all."""
    resizing: dict[str, Json]


class Manifest(TypedDict):
    """The content of manifest.json; ``records`` and ``files`` are added when all probes are measured.

    ``extend_manifest`` adds ``sha256``, the digest of everything else, so that a resumed run finds a changed bit.
    """

    schema: str
    auditor: str
    model: FileRecord
    data: ImagesFileRecord
    suite: str
    plan: Plan
    overrides: dict[str, dict[str, Json]]
    """Properties of the model from the command line."""
    settings: dict[str, dict[str, Json]]
    time_limit: float | None
    reduced: list[str]
    """Probes with the smaller settings of the suite."""
    unknown: NotRequired[FileRecord]
    """The images that belong to no class, if there are any."""
    seed: int
    command: str
    environment: dict[str, str | float | bool | None]


def records_key(
    probe: Probe,
    ids: Sequence[str],
    *,
    plugin_version: str | None,
    probes: Sequence[Probe],
    classifier: DeployedModel,
    images: Images,
    seed: int,
) -> str:
    """Return the digest of everything that a probe's records depend on.

    ``plugin_version`` is the version of the package that provides the probe, None for a built-in probe. Batch size,
    budget and number of workers do not change records and are not part of it. A row depends on one image and
    contains the digest of that image, so the images are not part of it, unless the probe prepares itself on ``ids``.
    Units change intervals, but rows only in that case: a split of the images keeps units together.
    """
    identity: list[Json] = [FORMAT, probe.meta.id, probe.meta.version, plugin_version]
    measurement = [*identity, plain(asdict(probe)), probe.fingerprint(probes)]
    inputs: list[Json] = [list(model_identity(classifier).values()), plain(images.resizing)]
    if type(probe).prepare is not Probe.prepare:
        inputs += [images.sha256, [*sorted(ids)]]
    if "unknown" in probe.meta.needs and images.unknown is not None:
        inputs.append(images.unknown.sha256)
    return digest([*measurement, *inputs, seed, classifier.device.partition(":")[0]])


def model_identity(classifier: DeployedModel) -> dict[str, Json]:
    """Return what identifies a model and its reading, by name."""
    output: list[Json] = [plain(classifier.decoder), classifier.artefact.output]
    return {
        "digest": classifier.sha256,
        "input shape": list(classifier.shape),
        "preprocessing": plain(classifier.preprocessing.describe()),
        "output": output,
        "runtime": classifier.artefact.runtime,
        "access": classifier.access,
        "classes": list(classifier.classes),
    }


def write_manifest(
    folder: RunFolder,
    request: Request,
    classifier: DeployedModel,
    images: Images,
    *,
    probes: Sequence[Probe],
    suite: Suite,
    policy: Policy,
    time_limit: float | None,
    reduced: Sequence[str],
    progress: Progress,
) -> Plan:
    """Write manifest.json and the list of images; report what differs from an earlier run in this folder.

    Returns the plan of the run; a resumed run keeps that of the run that began to measure.
    """
    manifest: Manifest = {
        "schema": "auditor-run/1",
        "auditor": auditor.__version__,
        "model": {"path": classifier.path, "sha256": classifier.sha256},
        "data": {
            "path": images.path,
            "sha256": images.sha256,
            "measured_sha256": images.measured_sha256,
            "n": len(images),
            "samples": request.samples or suite.samples,
            "resizing": plain(images.resizing),
        },
        "suite": suite.name,
        "plan": new_plan(request.seed, [probe.meta.id for probe in probes], suite, policy),
        "overrides": plain(request.overrides),
        "settings": {probe.meta.id: plain(asdict(probe), exact=True) for probe in probes},
        "time_limit": time_limit,
        "reduced": list(reduced),
        "seed": request.seed,
        "command": request.command,
        "environment": describe(classifier.device),
    }
    if images.unknown is not None:
        manifest["unknown"] = {"path": images.unknown.path, "sha256": images.unknown.sha256}
    before = _earlier(folder, progress)
    if before is not None:
        for line in manifest_changes(before, manifest):
            progress.say(f"Changed since the last run, so measured again: {line}")
        for line in _data_change(before.get("data"), manifest["data"]):
            progress.say(
                f"Changed since the last run: {line}; new and changed images are measured, and all by probes that"
                " prepare themselves on the data"
            )
        if folder.has_records:
            manifest["plan"] = kept_plan(before, manifest) or manifest["plan"]
    extend_manifest(folder, manifest)
    folder.write("records/images.parquet", _image_list(images, classifier.classes))
    return manifest["plan"]


def write_keys(folder: RunFolder, keys: Mapping[str, str]) -> None:
    """Add the digests of this run's records to manifest.json; records of earlier runs may be in the folder, too."""
    extend_manifest(folder, folder.read_json("manifest.json"), records=dict(keys))


def extend_manifest(folder: RunFolder, manifest: Mapping[str, Any], **more: Any) -> Path:
    """Write manifest.json with further content and the digest of everything in it."""
    content = {**manifest, **more}
    content.pop("sha256", None)
    return folder.write_json("manifest.json", {**content, "sha256": digest(content)})


def _earlier(folder: RunFolder, progress: Progress | None = None) -> Any:
    """Return the manifest of an earlier run of the folder; None without one, or if it is damaged."""
    if not (folder.path / "manifest.json").is_file():
        return None
    try:
        manifest = folder.read_json("manifest.json")
        stated = manifest.pop("sha256", None)
        if stated == digest(manifest):
            return manifest
        problem = "its content does not have the digest that it states"
    except (AttributeError, BadInput) as error:
        problem = str(error)
    if progress is not None:
        progress.say(f"manifest.json is damaged, so the plan of the earlier run is lost: {problem}")
    return None


def earlier_reductions(folder: RunFolder, suite: str, time_limit: float) -> list[str] | None:
    """Return the probes that an earlier run of this folder reduced under the same limit; None without such a run."""
    before = _earlier(folder)
    same = before is not None and before.get("suite") == suite and before.get("time_limit") == time_limit
    return before["reduced"] if same else None


def manifest_changes(before: Manifest, now: Manifest) -> list[str]:
    """List the differences between two manifests that make records unusable: key and both values."""
    lines = [*_input_change("model", before.get("model"), now["model"])]
    if before.get("data", {}).get("resizing") != now["data"]["resizing"]:
        lines.append("the resizing of the images")
    if "unknown" in before and "unknown" in now:
        lines += _input_change("unknown", before["unknown"], now["unknown"])
    if before.get("seed") != now["seed"]:
        lines.append(f"seed {before.get('seed')} -> {now['seed']}")
    for probe_id, settings in now["settings"].items():
        old = before.get("settings", {}).get(probe_id)
        if old is not None:
            lines += [
                f"{probe_id}.{name} {old.get(name)} -> {value}"
                for name, value in settings.items()
                if old.get(name) != value
            ]
    return lines


def _input_change(name: str, before: FileRecord | None, now: FileRecord) -> list[str]:
    old, new = before["sha256"] if before else "?", now["sha256"]
    return [] if old == new else [f"{name} {old[:12]} -> {new[:12]}"]


def _data_change(before: ImagesFileRecord | None, now: ImagesFileRecord) -> list[str]:
    """Return the change of the data; other units alone need no measurement."""
    same = before is not None and before.get("measured_sha256", before["sha256"]) == now["measured_sha256"]
    return [] if same else _input_change("data", before, now)


def _image_list(images: Images, classes: Sequence[str]) -> bytes:
    """Return a Parquet file that identifies the images for comparisons: id, digest of the bytes, label, unit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = [None] * len(images) if images.labels is None else [classes[label] for label in images.labels]
    columns: dict[str, Any] = {"image_id": images.ids, "sha256": images.digests, "label": labels}
    if images.units is not None:
        columns["unit"] = images.units
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    written: bytes = sink.getvalue().to_pybytes()
    return written
