"""Two runs or more against each other, image by image: what got significantly better, what worse, what cannot be told.

Only images that are in every run count (same id, same bytes, same label); where that leaves images out, the metrics are
concluded again from the rows of the common ones. A probe whose settings differ between the runs is named and not
compared. Tests, for each metric and pair of runs:

- ``mcnemar``: proportions over the same images (McNemar's exact test);
- ``bootstrap``: other means over the same images (paired bootstrap);
- ``intervals``: everything else, from the two published intervals as if the images were not the same ones (cautious).

P-values are corrected for their number by Holm's method in two families that share 5 % equally: the headline numbers
of the probes (the first metric of each), and all the others. So a model that did not change is called worse or better
anywhere in at most 5 % of comparisons.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import auditor
from auditor import numbers, stats
from auditor.engine import no_exhibits
from auditor.errors import AuditorError, BadInput
from auditor.finding import AREAS, plain
from auditor.probe import Probe, Records
from auditor.registry import Registry, load
from auditor.rerun import read_audit
from auditor.store import read_rows, write_whole

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
_MOST_RUNS = 26
_MOST_LINES = 6
"""Lines of an overlaid figure; of more, those that differ most."""

_NOT_MEASURED = ("not-applicable", "error")
_CHANGES_NOTHING = ("samples",)
"""Settings that choose images alone; only the common ones are compared."""


@dataclass(frozen=True)
class _Run:
    name: str
    """A, B, C, ..."""
    folder: Path
    audit: dict[str, Any]
    keys: Mapping[str, str]
    """Probe to the digest of its rows."""
    images: pd.DataFrame | None
    """Digest and label by image id; None for a run that did not write them down."""

    @property
    def probes(self) -> dict[str, dict[str, Any]]:
        return {probe["id"]: probe for probe in self.audit["probes"]}


@dataclass
class _Part:
    """What one run says of one probe, on the common images."""

    metrics: dict[tuple[str, str], dict[str, Any]]
    findings: list[dict[str, Any]]
    values: dict[tuple[str, str], pd.Series] = field(default_factory=dict)


class _CannotCompare(Exception):
    """Why a probe cannot be compared; the report says it."""


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
    found = sorted(ids, key=lambda i: (AREAS.index(_any(runs, i)["area"]), order[i]))
    probes = [_compare_probe(runs, probe_id, common, plugins) for probe_id in found]
    if not any(probe["metrics"] for probe in probes):
        why = "; ".join(f"{probe['id']}: {probe['reason']}" for probe in probes[:3])
        raise BadInput(f"{runs[1].folder}: has no probe in common with {runs[0].folder} that could be compared ({why})")
    tests = _correct(probes)
    result: dict[str, Any] = {
        "schema": "auditor-compare/1",
        "auditor": auditor.__version__,
        "runs": [_describe(run) for run in runs],
        "images": images,
        "differences": list(_differences(runs, images)),
        "alpha": ALPHA,
        "tests": tests,
        "probes": probes,
        "leaderboard": _leaderboard(runs, probes) if len(runs) > 2 else [],
    }
    result["verdict"], result["verdict_reason"] = _verdict(result)
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
        troubles = []
        for name in dict.fromkeys(formats):
            if name == "json":
                continue
            try:
                files.append(write_whole(out / f"comparison.{name}", renderers[name](comparison)))
            except AuditorError as error:
                troubles.append(f"comparison.{name} was not written: {error}")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); name another folder with --out") from None
    return files, troubles


def check_formats(formats: Sequence[str]) -> None:
    """Raises BadInput for a format that comparisons are not written in."""
    for name in formats:
        if name not in {"html", "pdf", "json"}:
            raise BadInput(f"--format {name}: a comparison is written as html, pdf or json")


def validator() -> Any:
    """A JSON Schema validator for comparison.json."""
    import jsonschema

    schema = json.loads((Path(__file__).parent / "compare.schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


# the runs


def _open(name: str, folder: Path) -> _Run:
    import pandas as pd

    audit = read_audit(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        manifest = {}
    path = folder / "records" / "images.parquet"
    images = pd.read_parquet(path).set_index("image_id") if path.is_file() else None
    return _Run(name, folder, audit, manifest.get("records", {}), images)


def _common_images(runs: Sequence[_Run]) -> tuple[set[str] | None, dict[str, Any]]:
    """Ids of the images that are in every run, None where all are in all; and the counts that the report states."""
    sizes = [run.audit["data"]["n"] for run in runs]
    if any(run.images is None for run in runs):
        if len({run.audit["data"]["sha256"] for run in runs}) > 1:
            old = next(run for run in runs if run.images is None)
            raise BadInput(
                f"{old.folder}: the runs' data differ, and this run did not write down which images it holds (it has no"
                " records/images.parquet); audit the model again"
            )
        return None, {"common": sizes[0], "of": sizes, "other_bytes": 0, "other_label": 0}
    frames: list[pd.DataFrame] = [run.images for run in runs if run.images is not None]
    shared = set(frames[0].index).intersection(*(frame.index for frame in frames[1:]))
    ordered = sorted(shared)
    same: list[str] = []
    other_bytes = other_label = 0
    columns = [(frame.loc[ordered, "sha256"].tolist(), frame.loc[ordered, "label"].tolist()) for frame in frames]
    for i, image_id in enumerate(ordered):
        if len({digests[i] for digests, _ in columns}) > 1:
            other_bytes += 1
        elif len({labels[i] for _, labels in columns}) > 1:
            other_label += 1
        else:
            same.append(image_id)
    if not same:
        raise BadInput(
            f"{runs[1].folder}: has no image in common with {runs[0].folder} ({len(shared)} ids in common,"
            f" {other_bytes} of them with other bytes, {other_label} with another label); audit both models with the"
            " same --data, --seed and --samples"
        )
    counts = {"common": len(same), "of": sizes, "other_bytes": other_bytes, "other_label": other_label}
    return (None if all(len(same) == size for size in sizes) else set(same)), counts


def _describe(run: _Run) -> dict[str, Any]:
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


def _differences(runs: Sequence[_Run], images: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
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


# one probe


def _any(runs: Sequence[_Run], probe_id: str) -> dict[str, Any]:
    return next(run.probes[probe_id] for run in runs if probe_id in run.probes)


def _compare_probe(
    runs: Sequence[_Run], probe_id: str, common: set[str] | None, plugins: Registry
) -> dict[str, Any]:  # fmt: skip
    about = _any(runs, probe_id)
    entry: dict[str, Any] = {
        "id": probe_id,
        "title": about["title"],
        "area": about["area"],
        "status": [run.probes[probe_id]["status"] if probe_id in run.probes else None for run in runs],
        "severity": [run.probes[probe_id]["severity"] if probe_id in run.probes else None for run in runs],
        "reason": "",
        "metrics": [],
        "curves": [],
    }
    try:
        _refuse_other_settings(runs, probe_id)
        probe = _probe(plugins, probe_id, about)
        if probe is not None and probe.uses:
            _refuse_other_base(runs, probe)
        parts = _parts(runs, probe, probe_id, common)
    except _CannotCompare as why:
        return entry | {"reason": str(why)}
    shapes = {tuple(run.audit["model"]["input"]["shape"][1:]) for run in runs}
    everywhere = [key for key in parts[0].metrics if all(key in part.metrics for part in parts)]
    for position, key in enumerate(everywhere):
        metrics = [part.metrics[key] for part in parts]
        headline = position == 0 and key == next(iter(parts[0].metrics))
        if len(shapes) > 1 and {metrics[0]["unit"], str(metrics[0]["at"].get("norm"))} & {"l1", "l2"}:
            continue
        pairs = itertools.combinations(range(len(runs)), 2) if headline or len(runs) == 2 else ()
        entry["metrics"].append(
            {
                **{name: metrics[0][name] for name in ("name", "at", "unit")},
                "headline": headline,
                "values": [{name: metric[name] for name in ("value", "low", "high", "n")} for metric in metrics],
                "pairs": [_pair(i, j, metrics, [part.values.get(key) for part in parts]) for i, j in pairs],
            }
        )
    if not entry["metrics"]:
        entry["reason"] = "has no metric in common"
    entry["curves"] = list(_overlay(runs, parts))
    return entry


def _refuse_other_settings(runs: Sequence[_Run], probe_id: str) -> None:
    for run in runs:
        if probe_id not in run.probes:
            raise _CannotCompare(f"was not run in {run.name}")
        probe = run.probes[probe_id]
        if probe["status"] in _NOT_MEASURED:
            raise _CannotCompare(f"{probe['status'].replace('-', ' ')} in {run.name}: {probe['reason']}")
    settings = [run.probes[probe_id]["settings"] for run in runs]
    names = sorted({name for each in settings for name in each} - set(_CHANGES_NOTHING))
    other = [name for name in names if len({json.dumps(each.get(name), sort_keys=True) for each in settings}) > 1]
    if other:
        said = "; ".join(
            f"{name}: " + ", ".join(f"{run.name} {json.dumps(each.get(name))}" for run, each in zip(runs, settings,
                                                                                                strict=True))
            for name in other
        )  # fmt: skip
        raise _CannotCompare(f"its settings differ ({said})")


def _refuse_other_base(runs: Sequence[_Run], probe: Probe) -> None:
    """A probe that rests on other probes' rows compares only where these are the same probes with the same settings."""
    bases = [
        {
            probe_id: json.dumps({k: v for k, v in record["settings"].items() if k not in _CHANGES_NOTHING})
            for probe_id, record in _bases(run, probe).items()
        }
        for run in runs
    ]
    other = sorted({i for base in bases for i in base if len({each.get(i) for each in bases}) > 1})
    if other:
        raise _CannotCompare(f"rests on {', '.join(other)}, which did not run with the same settings everywhere")


def _bases(run: _Run, probe: Probe) -> dict[str, dict[str, Any]]:
    """The probes of a run whose rows ``probe`` reads."""
    return {
        probe_id: record
        for probe_id, record in run.probes.items()
        if record["status"] not in _NOT_MEASURED and any(fnmatch.fnmatch(probe_id, glob) for glob in probe.uses)
    }


def _probe(plugins: Registry, probe_id: str, record: Mapping[str, Any]) -> Probe | None:
    """The probe as it was set, or None where it is not installed (any more) as it was."""
    if probe_id not in plugins.probes:
        return None
    try:
        return plugins.configure(probe_id, record["settings"], where="audit.json")
    except AuditorError:
        return None


def _parts(runs: Sequence[_Run], probe: Probe | None, probe_id: str, common: set[str] | None) -> list[_Part]:
    """The metrics of every run on the images that this probe measured in all of them, and each image's share."""
    records = [None if probe is None else _records(run, probe, common) for run in runs]
    if probe is None or any(record is None for record in records):
        if common is not None or len({run.probes[probe_id]["n"] for run in runs}) > 1:
            why = "is not installed" if probe is None else "has no rows in the run folder"
            raise _CannotCompare(f"measured other images in each run, and the probe {why}, so it cannot be restricted")
        return [_part(run.probes[probe_id]["metrics"], run.probes[probe_id]["findings"]) for run in runs]
    whole = [record for record in records if record is not None]
    ids = [set(record.frame["image_id"]) for record in whole]
    shared = set.intersection(*ids)
    if not shared:
        raise _CannotCompare("measured no image that is in every run")
    parts = []
    for run, record, own in zip(runs, whole, ids, strict=True):
        some = _restrict(record, shared)
        told = run.probes[probe_id]
        try:
            if len(own) == len(shared) == told["n"]:
                part = _part(told["metrics"], told["findings"])
            else:
                conclusion = probe.conclude(some)
                part = _part(plain(conclusion.metrics), plain(conclusion.findings))
            part.values = {
                _key(each.name, plain(each.at)): each.values
                for each in probe.per_image(some)
                if each.values.index.is_unique
            }
        except Exception as error:
            raise _CannotCompare(f"could not be concluded from {run.name}: {type(error).__name__}: {error}") from None
        parts.append(part)
    return parts


def _records(run: _Run, probe: Probe, common: set[str] | None) -> Records | None:
    def rows(probe_id: str) -> pd.DataFrame | None:
        return read_rows(run.folder, probe_id, run.keys.get(probe_id))

    frame = rows(probe.meta.id)
    others = {i: rows(i) for i in _bases(run, probe)}
    if frame is None or any(other is None for other in others.values()):
        return None
    records = Records(
        frame=frame, exhibits=no_exhibits(), classes=run.audit["model"]["classes"],
        labelled=run.audit["data"]["labelled"], others={i: other for i, other in others.items() if other is not None},
    )  # fmt: skip
    return records if common is None else _restrict(records, common)


def _restrict(records: Records, ids: set[str]) -> Records:
    def some(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["image_id"].isin(ids)].reset_index(drop=True)

    others = {probe_id: some(frame) for probe_id, frame in records.others.items()}
    return dataclasses.replace(records, frame=some(records.frame), others=others)


def _part(metrics: Sequence[dict[str, Any]], findings: Sequence[dict[str, Any]]) -> _Part:
    return _Part({_key(metric["name"], metric["at"]): metric for metric in metrics}, list(findings))


def _key(name: str, at: Mapping[str, Any]) -> tuple[str, str]:
    return name, json.dumps(at, sort_keys=True)


# one number of two runs


def _pair(i: int, j: int, metrics: Sequence[Mapping[str, Any]], values: Sequence[pd.Series | None]) -> dict[str, Any]:
    """The difference of run ``j`` from run ``i`` with its interval and p-value, before correction."""
    import numpy as np

    first, second = values[i], values[j]
    only: list[int] | None = None
    p: float | None
    n = min(metrics[i]["n"], metrics[j]["n"])
    if first is not None and second is not None and _stands_for(first, metrics[i]) and _stands_for(second, metrics[j]):
        x, y = first.astype(float).align(second.astype(float))
        a, b = x.to_numpy(), y.to_numpy()
        if np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
            lost, gained = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
            interval, p = stats.paired_proportions(lost, gained, len(a)), stats.mcnemar_two_sided(lost, gained)
            only, test, n = [lost, gained], "mcnemar", len(a)
        else:
            (interval, p), test = stats.paired_means(a, b), "bootstrap"
    else:
        ends = [stats.Interval(metrics[k]["value"], metrics[k]["low"], metrics[k]["high"]) for k in (i, j)]
        (interval, p), test = stats.from_intervals(*ends), "intervals"
    return {
        "runs": [i, j],
        "difference": plain(interval._asdict()),
        "n": n,
        "test": "none" if p is None else test,
        "only": only,
        "p": None if p is None else float(p),
        "p_adjusted": None,
        "outcome": "not-tested",
    }


def _stands_for(values: pd.Series, metric: Mapping[str, Any]) -> bool:
    """Whether the mean over images really is the metric; what a plugin tells is checked before it is used."""
    mean = float(values.astype(float).mean())
    return metric["value"] is not None and math.isclose(mean, metric["value"], rel_tol=1e-4, abs_tol=1e-6)


def _correct(probes: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Correct the p-values for their number and say what follows; the number of tests in each family."""
    counts = {}
    families = {True: "headline", False: "other"}
    tested = {
        headline: [
            (metric, pair)
            for probe in probes
            for metric in probe["metrics"]
            for pair in metric["pairs"]
            if metric["headline"] is headline and pair["p"] is not None
        ]
        for headline in families
    }
    share = sum(bool(found) for found in tested.values())
    for headline, name in families.items():
        counts[name] = len(tested[headline])
        adjusted = stats.holm([pair["p"] for _, pair in tested[headline]])
        for (metric, pair), p in zip(tested[headline], adjusted, strict=True):
            pair["p_adjusted"] = min(1.0, share * p)
            pair["outcome"] = _outcome(metric, pair)
    return counts


def _outcome(metric: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    difference = pair["difference"]["value"]
    if pair["p_adjusted"] >= ALPHA or not difference:
        return "no-difference"
    side = numbers.better_side(metric) * (1 if difference > 0 else -1)
    return {1: "better", -1: "worse", 0: "different"}[side]


# all of it


def _verdict(result: Mapping[str, Any]) -> tuple[str, str]:
    """Headline numbers decide; where none of them differs, the others do."""
    runs, n = result["runs"], result["images"]["common"]
    seen = f"(n = {n} images in common)"
    if len(runs) > 2:
        first = [row for row in result["leaderboard"] if row["rank"] == 1]
        best, names = first[0], " and ".join(runs[row["run"]]["name"] for row in first)
        tests = best["better"] + best["worse"] + best["no_difference"]
        return "ranked", (
            f"{names} {'lead together, each' if len(first) > 1 else 'leads,'} significantly better than another run in"
            f" {best['better']} of {tests} comparisons of headline numbers and worse in {best['worse']} {seen}"
        )
    found = {headline: Counter(metric["pairs"][0]["outcome"] for probe in result["probes"]
                               for metric in probe["metrics"] if metric["headline"] is headline)
             for headline in (True, False)}  # fmt: skip
    decisive = found[True] if found[True]["better"] or found[True]["worse"] else found[False]
    better, worse = decisive["better"] > 0, decisive["worse"] > 0
    a, b = (run["name"] for run in runs)
    verdict, words = (
        ("mixed", f"{b} is worse than {a} in some respects and better in others") if worse and better
        else ("worse", f"{b} is worse than {a}") if worse
        else ("better", f"{b} is better than {a}") if better
        else ("no-difference", f"no significant difference of {b} from {a} was found, which does not show that there is"
                               " none")
    )  # fmt: skip
    parts = [words]
    for headline, kind in ((True, "headline"), (False, "further")):
        tested = sum(found[headline].values()) - found[headline]["not-tested"]
        if tested:
            worse_ones, better_ones = found[headline]["worse"], found[headline]["better"]
            parts.append(f"of {tested} {kind} numbers {worse_ones} significantly worse, {better_ones} better")
    for side in ("worse", "better"):
        changed = [probe["id"] for probe in result["probes"]
                 if any(metric["pairs"][0]["outcome"] == side for metric in probe["metrics"])]  # fmt: skip
        parts += [f"{side}: {', '.join(changed)}"] if changed else []
    return verdict, "; ".join(parts) + f" {seen}"


def _leaderboard(runs: Sequence[_Run], probes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The runs by how often they are significantly better less how often worse than another in a headline number."""
    tally = [{"run": i, "better": 0, "worse": 0, "no_difference": 0} for i in range(len(runs))]
    for probe in probes:
        for metric in probe["metrics"]:
            for pair in metric["pairs"]:
                i, j = pair["runs"]
                if pair["outcome"] in {"better", "worse"}:
                    winner, loser = (j, i) if pair["outcome"] == "better" else (i, j)
                    tally[winner]["better"] += 1
                    tally[loser]["worse"] += 1
                elif pair["outcome"] != "not-tested":
                    tally[i]["no_difference"] += 1
                    tally[j]["no_difference"] += 1
    rows = sorted(tally, key=lambda row: (row["worse"] - row["better"], row["run"]))
    points = [row["better"] - row["worse"] for row in rows]
    return [{"rank": 1 + sum(p > point for p in points), "points": point} | row
            for point, row in zip(points, rows, strict=True)]  # fmt: skip


def _overlay(runs: Sequence[_Run], parts: Sequence[_Part]) -> Iterator[dict[str, Any]]:
    """The curves that every run has, with all runs' lines in one figure; of many lines those that differ most."""
    drawn: list[dict[tuple[str, str], dict[str, Any]]] = [
        {
            (finding["id"], evidence["title"]): evidence
            for finding in part.findings
            for evidence in finding["evidence"]
            if evidence["kind"] == "curve"
        }
        for part in parts
    ]
    for key, curve in drawn[0].items():
        if not all(key in each for each in drawn):
            continue
        lines = [{series["name"]: series["points"] for series in each[key]["series"]} for each in drawn]
        names = [name for name in lines[0] if all(name in each for each in lines)]
        # a line without intervals (a reference, a variant of the first) stays out
        names = [name for name in names if any(point["low"] is not None for point in lines[0][name])]
        most = max(1, _MOST_LINES // len(runs))
        kept = sorted(names, key=lambda name: -_apart([each[name] for each in lines]))[:most]
        if not kept:
            continue
        caption = "Bands are 95 % intervals of each run by itself; the test of the difference is in the table."
        if len(kept) < len(names):
            caption += f" The {len(kept)} of {len(names)} lines that differ most."
        yield {
            **{name: curve[name] for name in ("kind", "title", "x", "y")},
            "caption": caption,
            "series": [
                {"name": run.name if len(names) == 1 else f"{run.name}: {name}", "points": each[name]}
                for name in sorted(kept, key=names.index)
                for run, each in zip(runs, lines, strict=True)
            ],
        }


def _apart(lines: Sequence[Sequence[Mapping[str, Any]]]) -> float:
    """The largest difference between lines at a place that they share."""
    known = [{point["x"]: point["y"] for point in line if point["y"] is not None} for line in lines]
    shared = set.intersection(*(set(each) for each in known))
    return max((max(each[x] for each in known) - min(each[x] for each in known) for x in shared), default=0.0)
