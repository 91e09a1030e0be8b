"""A finished run once more: judged by another policy, drawn again, or its evidence shown to the model again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from auditor.engine import Outcome, evidence_files, finish, open_model, pick_formats, validator
from auditor.errors import BadInput
from auditor.policy import judge_all, read_policy, verdict
from auditor.registry import load
from auditor.store import RunFolder, file_sha256


@dataclass(frozen=True)
class Claim:
    """One stored picture and what the report says the model answers to it."""

    text: str
    holds: bool


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
    audit = read_audit(folder)
    plugins = load()
    policy = read_policy(policy_name, plugins.probes)
    chosen = pick_formats(plugins, formats, paper)
    broken = [plugin["name"] for plugin in audit["plugins"] if plugin["error"]]
    audit["probes"] = judge_all(audit["probes"], policy)
    audit["policy"] = policy.described(audit["probes"])
    audit["verdict"], audit["verdict_reason"] = verdict(audit["probes"], policy, broken)
    return _write(folder, audit, chosen)


def draw_again(folder: Path, formats: Sequence[str], paper: str = "a4") -> Outcome:
    """The reports once more."""
    audit = read_audit(folder)
    return _write(folder, audit, pick_formats(load(), formats, paper))


def replay(folder: Path, model: Path | None, device: str, *, trust: bool = False) -> list[Claim]:
    """Ask the model about every stored picture: same answer, and for a success still a wrong one?

    Needs neither the data nor a GPU. Raises BadInput for a run without pictures or another model file.
    """
    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    from auditor.images import Resizing, fit

    audit = read_audit(folder)
    path = model or Path(audit["model"]["path"])
    if model is None and not path.is_file():
        raise BadInput(f"{path}: the audited model is not there (any more); name the file with --model")
    classifier = open_model(path, device, _stated(audit["model"], named=model is None), trust=trust)
    if model is None and file_sha256(path) != audit["model"]["sha256"]:
        raise BadInput(f"{path}: not the file that was audited (its SHA-256 differs); name it with --model")
    shards = sorted((folder / "records").glob("*/exhibits-*.parquet"))
    if not shards:
        raise BadInput(f"{folder}: this run stored no pictures, so there is nothing to replay")
    classes = audit["model"]["classes"]
    # what 8-bit rounding repaired is recorded, too, but no report shows it and its file is not kept
    shown = {file for probe in audit["probes"] for file in evidence_files(probe)}
    claims = []
    for shard in shards:
        for row in pq.read_table(shard).to_pylist():
            if row["file"] not in shown:
                continue
            try:
                with Image.open(folder / row["file"]) as picture:
                    pixels = fit(picture, classifier.shape, Resizing(resize="stretch")).astype(np.float32) / np.float32(
                        255
                    )
            except OSError as error:
                claims.append(Claim(f"MISSING  {row['file']}: {error}", holds=False))
                continue
            probabilities = classifier.predict(pixels[None])[0]
            answer = int(probabilities.argmax())
            holds = answer == row["prediction"]
            claims.append(
                Claim(
                    f"{'holds  ' if holds else 'DIFFERS'}  {shard.parent.name} {row['picture']} of {row['image_id']}:"
                    f" label {classes[row['label']]}, reported {classes[row['prediction']]} ({row['confidence']:.2f}),"
                    f" now {classes[answer]} ({probabilities[answer]:.2f})",
                    holds,
                )
            )
    return claims


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
