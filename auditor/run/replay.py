"""A finished run once more: judged by another policy, drawn again, or its evidence shown to the model again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import BadInput
from auditor.files import file_sha256
from auditor.plugin.registry import load
from auditor.policy.rules import read_policy
from auditor.policy.verdict import judge_all, verdict
from auditor.run.folder import RunFolder
from auditor.run.opening import open_model
from auditor.run.record import evidence_files, validator
from auditor.run.request import Outcome
from auditor.run.writing import finish, pick_formats, prepare


@dataclass(frozen=True)
class Seen:
    """One stored picture and what the model answers to it now, beside what the report says."""

    text: str
    holds: bool


@dataclass(frozen=True)
class Claim:
    """A finding and the pictures that the report shows for it."""

    finding: str
    """Its id."""
    statement: str
    pictures: Sequence[Seen]

    @property
    def holds(self) -> bool:
        """Whether every picture gets the answer that the report states."""
        return all(picture.holds for picture in self.pictures)


def read_audit(folder: Path) -> dict[str, Any]:
    """The audit.json of a run folder, valid by the schema. Raises BadInput."""
    path = folder / "audit.json"
    try:
        audit: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BadInput(f"{folder}: has no audit.json; expected the folder of a finished audit") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not readable as JSON: {error}") from None
    problem = next(iter(validator().iter_errors(audit)), None)
    if problem is not None:
        place = "/".join(str(part) for part in problem.absolute_path) or "the top"
        raise BadInput(f"{path}: not an audit of this version: at {place}: {problem.message[:200]}")
    return audit


def judge_again(folder: Path, policy_name: str, formats: Sequence[str], paper: str = "a4") -> Outcome:
    """Status, severity and verdict by another policy; no model call."""
    plugins = load()
    chosen = pick_formats(plugins, formats, paper)
    prepare(chosen)
    audit = read_audit(folder)
    policy = read_policy(policy_name, plugins.probes)
    broken = [plugin["name"] for plugin in audit["plugins"] if plugin["error"]]
    audit["probes"] = judge_all(audit["probes"], policy)
    audit["policy"] = policy.described(audit["probes"])
    audit["verdict"], audit["verdict_reason"] = verdict(audit["probes"], policy, broken)
    return _write(folder, audit, chosen)


def draw_again(folder: Path, formats: Sequence[str], paper: str = "a4") -> Outcome:
    """The reports once more."""
    chosen = pick_formats(load(), formats, paper)
    prepare(chosen)
    return _write(folder, read_audit(folder), chosen)


def replay(folder: Path, model: Path | None, device: str, *, trust: bool = False) -> list[Claim]:
    """Ask the model about every stored picture, finding by finding: does it still give the answer that the report says?

    Needs neither the data nor a GPU. Raises BadInput for a run without pictures or another model file.
    """
    audit = read_audit(folder)
    path = model or Path(audit["model"]["path"])
    if model is None and not path.is_file():
        raise BadInput(f"{path}: the audited model is not there (any more); name the file with --model")
    classifier = open_model(path, device, _stated(audit["model"], named=model is None), trust=trust)
    if model is None and file_sha256(path) != audit["model"]["sha256"]:
        raise BadInput(f"{path}: not the file that was audited (its SHA-256 differs); name it with --model")
    rows = _examples(folder)
    if not rows:
        raise BadInput(f"{folder}: this run stored no pictures, so there is nothing to replay")
    # what 8-bit rounding repaired is recorded, too, but no report shows it and its file is not kept
    shown: dict[str, list[str]] = {}
    for probe in audit["probes"]:
        for finding in probe["findings"]:
            shown |= {file: [*shown.get(file, []), finding["id"]] for file in evidence_files({"findings": [finding]})}
    rows = [row for row in rows if row["file"] in shown]
    pixels, gone = _pictures(folder, {row["file"] for row in rows}, classifier.shape)
    answers = dict(zip(pixels, classifier.predict(np.stack(list(pixels.values()))), strict=True)) if pixels else {}
    seen: dict[str, dict[tuple[str, str, str], Seen]] = {}
    for row in rows:
        picture = _seen(row, answers.get(row["file"]), gone, audit["model"]["classes"])
        for finding_id in shown[row["file"]]:
            # a picture may be shown by several probes; it is a claim of those whose own it is
            if finding_id.partition("/")[0] == row["probe"]:
                seen.setdefault(finding_id, {})[row["picture"], row["image_id"], row["at"]] = picture
    return [
        Claim(finding["id"], finding["statement"], list(seen[finding["id"]].values()))
        for probe in audit["probes"]
        for finding in probe["findings"]
        if finding["id"] in seen
    ]


def _examples(folder: Path) -> list[dict[str, Any]]:
    """What the original answered to every stored picture, with the probe that stored it."""
    import pyarrow.parquet as pq

    shards = sorted((folder / "records").glob("*/examples-*.parquet"))
    return [{"probe": shard.parent.name} | row for shard in shards for row in pq.read_table(shard).to_pylist()]


def _pictures(
    folder: Path, files: set[str], shape: tuple[int, int, int]
) -> tuple[dict[str, NDArray[np.float32]], dict[str, str]]:
    """Stored pictures as the model takes them, by file; and why the others cannot be read."""
    from PIL import Image

    from auditor.data.resizing import Resizing, fit

    pixels: dict[str, NDArray[np.float32]] = {}
    gone: dict[str, str] = {}
    for file in sorted(files):
        try:
            with Image.open(folder / file) as picture:
                fitted = fit(picture, shape, Resizing(resize="stretch"))
                pixels[file] = fitted.astype(np.float32) / np.float32(255)
        except OSError as error:
            gone[file] = str(error)
    return pixels, gone


def _seen(
    row: Mapping[str, Any], answer: NDArray[np.float32] | None, gone: Mapping[str, str], classes: Sequence[str]
) -> Seen:
    if answer is None:
        return Seen(f"MISSING  {row['file']}: {gone[row['file']]}", holds=False)
    now = int(answer.argmax())
    holds = now == row["prediction"]
    return Seen(
        f"{'holds  ' if holds else 'DIFFERS'}  {row['picture']} of {row['image_id']}: label {classes[row['label']]},"
        f" reported {classes[row['prediction']]} ({row['confidence']:.2f}), now {classes[now]} ({answer[now]:.2f})",
        holds,
    )


def _stated(model: Mapping[str, Any], *, named: bool) -> dict[str, Any]:
    """The preprocessing and the output of a run, as the command line would state them; its name only if ``named``."""
    described = model["input"]
    batch_first = described["shape"][1:]
    channels, *size = batch_first if described["layout"] == "nchw" else [batch_first[2], *batch_first[:2]]
    kept = {key: described[key] for key in ("layout", "range", "mean", "std", "order") if key in described}
    # another file of the same network (TorchScript beside ONNX) has other names
    name = model.get("output", {}).get("name") if named else None
    output = {"kind": model["outputs"]} | ({"name": name} if name else {})
    return {"input": kept | {"channels": channels, "size": size}, "output": output}


def _write(path: Path, audit: dict[str, Any], formats: Sequence[Any]) -> Outcome:
    folder = RunFolder(path)
    try:
        return finish(audit, folder, formats)
    finally:
        folder.close()
