"""TODO."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from auditor.errors import AuditorError
from auditor.plugin.registry import Registry

if TYPE_CHECKING:
    pass
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import auditor
from auditor.compare.runs import Run, first_record
from auditor.errors import BadInput
from auditor.files import write_whole
from auditor.findings.finding import AREAS
from auditor.plugin.registry import load

if TYPE_CHECKING:
    pass
from auditor.compare.pairing import compare_probe, correct_p_values
from auditor.compare.runs import _MOST_RUNS, _common_images, _open
from auditor.compare.verdict import ALPHA, decide, leaderboard


def compare(folders: Sequence[Path], plugins: Registry | None = None) -> dict[str, Any]:
    """The content of comparison.json (``compare.schema.json``) for these run folders; the first is the baseline.

    Raises BadInput where nothing can be compared: fewer than two runs, no common image, labels in some runs only.
    """
    if not 2 <= len(folders) <= _MOST_RUNS:
        raise BadInput(f"compare: {len(folders)} runs; expected 2 to {_MOST_RUNS} run folders")
    runs = [_open(chr(ord("A") + i), Path(folder)) for i, folder in enumerate(folders)]
    plugins = plugins or load()
    labelled = {run.audit["data"]["labelled"] for run in runs}
    if len(labelled) > 1:
        without = next(run for run in runs if not run.audit["data"]["labelled"])
        raise BadInput(
            f"{without.folder}: was audited without labels and another run with them, so what counts as right is not"
            " the same; audit both models on the same data"
        )
    common, images = _common_images(runs)
    ids = dict.fromkeys(i for run in runs for i in run.probes)
    order = {probe_id: position for position, probe_id in enumerate(ids)}
    found = sorted(ids, key=lambda i: (AREAS.index(first_record(runs, i)["area"]), order[i]))
    probes = [compare_probe(runs, probe_id, common, plugins) for probe_id in found]
    if not any(probe["metrics"] for probe in probes):
        why = "; ".join(f"{probe['id']}: {probe['reason']}" for probe in probes[:3])
        raise BadInput(f"{runs[1].folder}: has no probe in common with {runs[0].folder} that could be compared ({why})")
    tests = correct_p_values(probes)
    result: dict[str, Any] = {
        "schema": "auditor-compare/1",
        "auditor": auditor.__version__,
        "runs": [_describe(run) for run in runs],
        "images": images,
        "differences": list(_differences(runs, images)),
        "alpha": ALPHA,
        "tests": tests,
        "probes": probes,
        "leaderboard": leaderboard(runs, probes) if len(runs) > 2 else [],
    }
    result["verdict"], result["verdict_reason"] = decide(result)
    return result


def regressed(comparison: Mapping[str, Any]) -> bool:
    """Whether the second of two runs is significantly worse than the first in anything."""
    return any(
        pair["outcome"] == "worse"
        for probe in comparison["probes"] for metric in probe["metrics"] for pair in metric["pairs"]
    )  # fmt: skip


def write(comparison: Mapping[str, Any], out: Path, formats: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Write comparison.json and, of "html" and "pdf", those in ``formats``; the files, and what could not be written.

    Raises BadInput for another format.
    """
    from auditor.report.comparison import render_html, render_pdf

    renderers = {"html": render_html, "pdf": render_pdf}
    check_formats(formats)
    try:
        text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        files = [write_whole(out / "comparison.json", text.encode())]
        problems = []
        for name in dict.fromkeys(formats):
            if name == "json":
                continue
            try:
                files.append(write_whole(out / f"comparison.{name}", renderers[name](comparison)))
            except AuditorError as error:
                problems.append(f"comparison.{name} was not written: {error}")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); name another folder with --out") from None
    return files, problems


def check_formats(formats: Sequence[str]) -> None:
    """Raises BadInput for a format that comparisons are not written in."""
    for name in formats:
        if name not in {"html", "pdf", "json"}:
            raise BadInput(f"--format {name}: a comparison is written as html, pdf or json")


def validator() -> Any:
    """A JSON Schema validator for comparison.json."""
    import jsonschema

    schema = json.loads((Path(__file__).parents[1] / "schemas" / "compare.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def _describe(run: Run) -> dict[str, Any]:
    audit = run.audit
    return {
        "name": run.name,
        "path": str(run.folder),
        "created": audit["created"],
        "auditor": audit["auditor"],
        "suite": audit["suite"],
        "seed": audit["seed"],
        "policy": audit["policy"]["name"],
        "model": {key: audit["model"][key] for key in ("path", "sha256", "format", "access")},
        "data": {key: audit["data"][key] for key in ("path", "sha256", "n", "labelled")},
        "verdict": audit["verdict"],
    }


def _differences(runs: Sequence[Run], images: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What else differs between the runs than the model, and what follows from it."""
    kept = f"only the {images['common']} images that are the same in every run are compared"
    facts: list[tuple[str, Callable[[dict[str, Any]], Any], str]] = [
        ("data", lambda a: a["data"]["sha256"][:12], kept),
        ("input", lambda a: " × ".join(map(str, a["model"]["input"]["shape"][1:])),
         "L1 and L2 sizes mean other things at another resolution and are not compared"),
        ("preprocessing", lambda a: json.dumps({k: a["model"]["input"][k] for k in ("range", "mean", "std")}),
         "belongs to the model; make sure that each is right"),
        ("classes", lambda a: ", ".join(a["model"]["classes"]), "images are matched by the names of their labels"),
        ("access", lambda a: a["model"]["access"], "attacks that need gradients ran on the white box alone"),
        ("seed", lambda a: a["seed"], "random starts, noise and the sample differ: part of a difference may be chance"),
        ("auditor", lambda a: a["auditor"], "a probe may have changed between the versions"),
        ("policy", lambda a: f"{a['policy']['name']} {a['policy']['sha256'][:8]}",
         "statuses and verdicts were judged by other thresholds; the numbers are not touched by it"),
        ("device", lambda a: str(a["environment"]["device"]), "rounding differs between devices"),
    ]  # fmt: skip
    for what, value, effect in facts:
        values = [value(run.audit) for run in runs]
        if len(set(values)) > 1:
            yield {"what": what, "values": [str(v)[:200] for v in values], "effect": effect}
    if len({run.audit["model"]["sha256"] for run in runs}) == 1:
        same = [run.audit["model"]["sha256"][:12] for run in runs]
        yield {"what": "model", "values": same, "effect": "every run audited the same model file"}
