"""Process a finished run again: judge it by another policy, render its reports, or replay its evidence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from auditor.errors import BadInput, first_line
from auditor.files import inside, parse_json, read_inside
from auditor.findings.record import AuditRecord, Json, ModelRecord, plugin_title
from auditor.model.deployed import DeployedModel
from auditor.plugin.registry import load
from auditor.policy.rules import read_policy
from auditor.policy.verdict import judge_all, verdict
from auditor.report import ReportFormat
from auditor.run.examples import ExampleRow
from auditor.run.folder import RunFolder, read_all_examples
from auditor.run.opening import open_model
from auditor.run.plan import with_plan_warnings
from auditor.run.record import evidence_files
from auditor.run.request import Outcome
from auditor.run.untrusted import from_folders
from auditor.run.writing import finish, pick_formats, prepare
from auditor.schemas import validator


@dataclass(frozen=True)
class ReplayedImage:
    """A stored image with the reported and the current prediction."""

    text: str
    holds: bool
    """True if both predictions are the same class."""


@dataclass(frozen=True)
class Claim:
    """A finding and the images that the report shows for it."""

    finding: str
    """Id of the finding."""
    statement: str
    images: Sequence[ReplayedImage]

    @property
    def holds(self) -> bool:
        """Whether every image has the reported prediction."""
        return all(image.holds for image in self.images)


class StoredExample(ExampleRow):
    """An example image, and the probe that stored it."""

    probe: str


def read_audit(folder: Path) -> AuditRecord:
    """Read the audit.json of a run folder. Raises BadInput if it is missing or does not fit the schema."""
    path = folder / "audit.json"
    try:
        audit = parse_json(read_inside(folder, path.name), str(path))
    except FileNotFoundError:
        raise BadInput(f"{folder}: has no audit.json; expected the folder of a finished audit") from None
    except OSError as error:
        raise BadInput(f"{path}: not readable: {error.strerror}") from None
    problem = next(iter(validator("audit").iter_errors(audit)), None)
    if problem is not None:
        place = "/".join(str(part) for part in problem.absolute_path) or "the top level"
        raise BadInput(f"{path}: not an audit of this version: at {place}: {problem.message[:200]}")
    return cast(AuditRecord, audit)


def judge_again(
    folder: Path, policy_name: str, formats: Sequence[str], paper: str = "a4", pdf: str = "full"
) -> Outcome:
    """Judge a run by another policy and render its reports, without a model call."""
    plugins = load()
    chosen = pick_formats(plugins, formats, paper, pdf)
    prepare(chosen)
    audit = read_audit(folder)
    policy = read_policy(policy_name, plugins.probes, policies=plugins.policies())
    with from_folders([folder]):
        broken = [plugin_title(plugin) for plugin in audit["plugins"] if plugin["error"]]
        audit["probes"] = judge_all(audit["probes"], policy)
        audit["policy"] = policy.described(audit["probes"])
        audit["verdict"], audit["verdict_reason"] = verdict(
            audit["probes"], policy, broken, unanswered=audit["data"].get("n_unanswered", 0)
        )
        return _write(folder, with_plan_warnings(audit), chosen)


def draw_again(folder: Path, formats: Sequence[str], paper: str = "a4", pdf: str = "full") -> Outcome:
    """Render the reports of a run again."""
    chosen = pick_formats(load(), formats, paper, pdf)
    prepare(chosen)
    audit = read_audit(folder)
    with from_folders([folder]):
        return _write(folder, audit, chosen)


def _write(path: Path, audit: AuditRecord, formats: Sequence[ReportFormat]) -> Outcome:
    with RunFolder(path) as folder:
        return finish(audit, folder, formats)


def replay(folder: Path, model: Path | None, device: str, *, trust: bool = False) -> list[Claim]:
    """Classify the stored images of every finding again and compare the predictions with the reported ones.

    Needs neither the data nor a GPU. ``model`` replaces the model of the run. Raises BadInput for a run without images
    or a changed model file.
    """
    audit = read_audit(folder)
    path = model or Path(audit["model"]["path"])
    if model is None and not path.is_file():
        raise BadInput(f"{path}: the audited model does not exist (any more); give the file with --model")
    classifier = open_model(path, device, model_tables(audit["model"], same_file=model is None), trust=trust)
    if model is None and classifier.sha256 != audit["model"]["sha256"]:
        raise BadInput(f"{path}: not the audited file (its SHA-256 differs); to use it anyway, give it with --model")
    with from_folders([folder]):
        return replay_on(classifier, folder, audit)


def replay_on(classifier: DeployedModel, folder: Path, audit: AuditRecord) -> list[Claim]:
    """Classify the stored images of every finding by a model that is open. Raises BadInput for a run without images."""
    examples = _stored_examples(folder)
    if not examples:
        raise BadInput(f"{folder}: this run stored no images, so there is nothing to replay")
    findings = _findings_by_file(audit)
    # examples that rounding to 8 bits undid have rows, but no report shows them and their files are not kept
    examples = [example for example in examples if example["file"] in findings]
    pixels, unreadable = _read_images(folder, {example["file"] for example in examples}, classifier.shape)
    predictions: dict[str, NDArray[np.float32]] = {}
    if pixels:
        predictions = dict(zip(pixels, classifier.predict(np.stack(list(pixels.values()))), strict=True))
    images: dict[str, dict[tuple[str, str, str], ReplayedImage]] = {}
    for example in examples:
        image = _replayed(example, predictions.get(example["file"]), unreadable, audit["model"]["classes"])
        for finding_id in findings[example["file"]]:
            # several probes may show an image; it belongs to the claims of the probe that stored it
            if finding_id.partition("/")[0] == example["probe"]:
                key = example["picture"], example["image_id"], example["at"]
                images.setdefault(finding_id, {})[key] = image
    return list(_claims(audit, images))


def _claims(audit: AuditRecord, images: Mapping[str, Mapping[tuple[str, str, str], ReplayedImage]]) -> Iterator[Claim]:
    for probe in audit["probes"]:
        for finding in probe["findings"]:
            if finding["id"] in images:
                yield Claim(finding["id"], finding["statement"], list(images[finding["id"]].values()))


def _findings_by_file(audit: AuditRecord) -> dict[str, list[str]]:
    """Return the ids of the findings that show an image, by file."""
    findings: dict[str, list[str]] = {}
    for probe in audit["probes"]:
        for finding in probe["findings"]:
            for file in dict.fromkeys(evidence_files([finding])):
                findings.setdefault(file, []).append(finding["id"])
    return findings


def _stored_examples(folder: Path) -> list[StoredExample]:
    """Read the rows of all stored images."""
    return [cast(StoredExample, {"probe": probe} | row) for probe, row in read_all_examples(folder)]


def _read_images(
    folder: Path, files: set[str], shape: tuple[int, ...]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Return the stored images as model input, (c, h, w) by file; and why others cannot be read."""
    from PIL import Image

    from auditor.data.resizing import Resizing, fit

    pixels: dict[str, NDArray[np.float32]] = {}
    unreadable: dict[str, str] = {}
    for file in sorted(files):
        try:
            with Image.open(inside(folder, file)) as picture:
                fitted = fit(picture, shape, Resizing(resize="stretch"))
                pixels[file] = fitted.astype(np.float32) / np.float32(255)
        except Exception as error:
            # decoders raise anything for broken files
            unreadable[file] = first_line(error)
    return pixels, unreadable


def _replayed(
    example: ExampleRow,
    probabilities: NDArray[np.float32] | None,
    unreadable: Mapping[str, str],
    classes: Sequence[str],
) -> ReplayedImage:
    if probabilities is None:
        return ReplayedImage(f"MISSING  {example['file']}: {unreadable[example['file']]}", holds=False)
    now = int(probabilities.argmax())
    holds = now == example["prediction"]
    return ReplayedImage(
        f"{'holds  ' if holds else 'DIFFERS'}  {example['picture']} of {example['image_id']}:"
        f" label {classes[example['label']]},"
        f" reported {classes[example['prediction']]} ({example['confidence']:.2f}),"
        f" now {classes[now]} ({probabilities[now]:.2f})",
        holds,
    )


def model_tables(model: ModelRecord, *, same_file: bool) -> dict[str, dict[str, Json]]:
    """Return preprocessing and output of a run in the tables of the sidecar."""
    described = model["input"]
    batch_first = described["shape"][1:]
    channels, *size = batch_first if described["layout"] == "nchw" else [batch_first[2], *batch_first[:2]]
    kept = {key: value for key, value in described.items() if key in ("layout", "range", "mean", "std", "order")}
    # another file of the same network (TorchScript instead of ONNX) has other output names
    name = model.get("output", {}).get("name") if same_file else None
    output: dict[str, Json] = {"kind": model["outputs"]} | ({"name": name} if name else {})
    return {"input": cast(dict[str, Json], kept | {"channels": channels, "size": size}), "output": output}
