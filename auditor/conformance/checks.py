"""The rules for probes as checks, for ``auditor plugin check`` and the contract tests.

``CHECKS`` test one probe at a time on a ``Subject`` (a model and images in memory). ``check_record`` tests the probe's
part of a finished audit. Both raise ``Breach`` with one sentence for the author of the plugin.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from auditor.conformance.subject import quick
from auditor.errors import BadInput, NotApplicable, PluginBroken
from auditor.findings.encoding import plain
from auditor.plugin import registry
from auditor.plugin.registry import Registry
from auditor.probes.attack import Attack
from auditor.probes.base import Need, Probe, Randomness
from auditor.probes.minimum_norm import MinimumNorm

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
from auditor.conformance.subject import Breach, Subject

HEAVY = (
    "torch",
    "art",
    "pandas",
    "sklearn",
    "scipy",
    "matplotlib",
    "onnxruntime",
    "onnx",
    "PIL",
    "pyarrow",
    "tensorflow",
    "cv2",
    "skimage",
)
"""Packages that no plugin may import at the top of its module."""

_ROUNDING = 2e-6
_ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
_VICTIMS = 12
_CHANCES = 4
"""Random perturbations of equal size per image that an attack is compared with."""


def _has_a_description(subject: Subject, kind: type[Probe]) -> None:
    """Check metadata, settings and threat model."""
    del subject
    try:
        registry.check_probe(kind)
    except PluginBroken as error:
        raise Breach(str(error)) from None
    meta = kind.meta
    if not meta.why.strip().endswith((".", "?")):
        raise Breach(f"meta.why is {meta.why!r}; expected whole sentences that end with a full stop")
    if not meta.input_kinds or set(meta.input_kinds) - {"images", "rows"}:
        raise Breach(f"meta.input_kinds is {sorted(meta.input_kinds)}; expected images, rows or both")
    unknown = set(meta.needs) - set(get_args(Need))
    if unknown:
        raise Breach(f"meta.needs names {sorted(unknown)}; expected some of {', '.join(get_args(Need))}")
    strange = [reference for reference in meta.references if not reference.startswith("https://")]
    if strange:
        raise Breach(f"meta.references contains {strange[0]!r}; expected addresses that begin with https://")
    threat = kind().threat_model()
    if threat is None:
        if meta.area == "attacks":
            raise Breach("threat_model() is None; expected goal, knowledge and budget of the attacker")
        return
    empty = [name for name, value in plain(threat).items() if not value]
    if empty:
        raise Breach(f"threat_model() leaves {', '.join(empty)} empty")
    if threat.knowledge not in {"white-box", "black-box", "none"}:
        raise Breach(f"threat_model().knowledge is {threat.knowledge!r}; expected white-box, black-box or none")


def _is_configurable(subject: Subject, kind: type[Probe]) -> None:
    """Check that the settings survive a round trip through a suite file."""
    probe = kind()
    try:
        settings = json.loads(json.dumps(dataclasses.asdict(probe)))
        again = _configured(subject.plugins, kind, settings)
    except (BadInput, TypeError, ValueError) as error:
        raise Breach(f"the settings do not survive JSON: {error}") from None
    if again != probe:
        changed = [f.name for f in dataclasses.fields(kind) if getattr(again, f.name) != getattr(probe, f.name)]
        raise Breach(
            f"{', '.join(changed) or 'a setting'} is changed by a round trip through JSON; use numbers, texts, tuples"
        )


def _configured(plugins: Registry, kind: type[Probe], settings: Mapping[str, Any]) -> Probe:
    """Configure the class as a suite file does; the registry need not contain it."""
    known = Registry(plugins.manager, probes={kind.meta.id: kind})
    return known.configure(kind.meta.id, settings, where="settings")


def _does_not_change_the_batch(subject: Subject, kind: type[Probe]) -> None:
    """Check that measuring changes no array of the batch and returns no view of it."""
    import numpy as np

    probe, was = quick(kind), subject.images
    rows, batch = subject.first(probe)
    unknown_ids = set(rows["image_id"]) - set(batch.ids)
    if unknown_ids:
        raise Breach(f"measure returned rows of images that are not in the batch: {sorted(unknown_ids)[:3]}")
    measuring = subject.prepared(probe)
    if hasattr(measuring, "perturbed"):
        for level in _levels(measuring):
            images = measuring.perturbed(subject.classifier, batch, Randomness(0, kind.meta.id), level)
            if np.shares_memory(images, batch.pixels):
                raise Breach(f"perturbed returned a view of the batch at {dict(level)}; return a new array")
    for name in ("pixels", "labels", "probabilities"):
        if not np.array_equal(getattr(was, name), getattr(batch, name)):
            raise Breach(f"measure changed batch.{name}; work on a copy")


def _is_reproducible(subject: Subject, kind: type[Probe]) -> None:
    """Check that the same seed gives bit-identical rows."""
    probe = quick(kind)
    again = subject.measure(probe, subject.batch)
    difference = _difference(subject.whole(probe), again, exactly=True)
    if difference:
        raise Breach(f"measured twice with one seed, {difference}; draw random numbers only from rng(image_id)")


def _is_independent_of_the_batch(subject: Subject, kind: type[Probe]) -> None:
    """Check that an image gives the same rows in any batch, up to float32 rounding."""
    import pandas as pd

    probe = quick(kind)
    n = len(subject.images)
    order = [n - 2, *range(0, n - 2), n - 1][::-1]
    parts = [subject.measure(probe, subject.images.take(part)) for part in (order[:1], order[1:3], order[3:])]
    pieces = pd.concat(parts).sort_values("image_id", kind="stable", ignore_index=True)
    difference = _difference(subject.whole(probe), pieces, exactly=False)
    if difference:
        raise Breach(f"in batches of 1, 2 and {n - 3} images, {difference}; use no statistics over the batch")


def _difference(one: pd.DataFrame, other: pd.DataFrame, *, exactly: bool) -> str:
    """Describe the first difference between two sets of rows; empty if they are equal."""
    import numpy as np

    if list(one.columns) != list(other.columns):
        return f"there were columns {list(one.columns)[1:]} and {list(other.columns)[1:]}"
    if len(one) != len(other) or list(one["image_id"]) != list(other["image_id"]):
        return f"there were {len(one)} and {len(other)} rows, or rows of other images"
    for name in one.columns:
        a, b = np.array(one[name].tolist()), np.array(other[name].tolist())
        if a.shape != b.shape:
            return f"column {name} had shapes {a.shape} and {b.shape}"
        if a.dtype.kind == "f" and b.dtype.kind == "f":
            # parity probes measure rounding itself
            same = np.isclose(a, b, rtol=0 if exactly else 1e-4, atol=0 if exactly else 2e-5, equal_nan=True)
        else:
            same = np.asarray(a == b)
        rows = ~same.reshape(len(same), -1).all(axis=1) if len(same) else np.zeros(0, dtype=bool)
        if rows.any():
            first = int(np.flatnonzero(rows)[0])
            return (
                f"column {name} differs in {int(rows.sum())} of {len(rows)} rows"
                f" ({one['image_id'][first]}: {_short(a[first])} and {_short(b[first])})"
            )
    return ""


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _stays_in_bounds(subject: Subject, kind: type[Probe]) -> None:
    """Check that perturbed images are float32 in [0, 1], of the same shape and within the budget."""
    import numpy as np

    probe = subject.prepared(quick(kind))
    if not hasattr(probe, "perturbed"):
        raise NotApplicable("does not perturb images")
    batch, n = subject.batch, len(subject.images)
    for level in _levels(probe):
        images = probe.perturbed(subject.classifier, batch, Randomness(0, kind.meta.id), level)
        at = f"at {json.dumps(plain(level))}"
        if images.shape != batch.pixels.shape or images.dtype != np.float32:
            raise Breach(f"images are {images.dtype} {images.shape} {at}; expected float32 {batch.pixels.shape}")
        if not (images.min() >= 0 and images.max() <= 1):
            raise Breach(f"pixels go from {images.min():g} to {images.max():g} {at}; expected 0 to 1")
        if "norm" in level and "epsilon" in level:
            delta = (images - batch.pixels).reshape(n, -1).astype(np.float64)
            largest = np.linalg.norm(delta, ord=_ORDER[level["norm"]], axis=1).max()
            if largest > level["epsilon"] + _ROUNDING:
                raise Breach(f"a perturbation has length {largest:.6g} {at}, beyond its budget")


def _levels(probe: Any) -> Sequence[Mapping[str, Any]]:
    """The levels of a probe that perturbs images."""
    if hasattr(probe, "levels"):
        return list(probe.levels())
    return list(probe.control_levels()) if hasattr(probe, "control_levels") else []


def _reports_real_errors(subject: Subject, kind: type[Probe]) -> None:
    """Check that every image that a minimum-norm search moved is misclassified, and no other."""
    import numpy as np

    if not issubclass(kind, MinimumNorm):
        raise NotApplicable("is not a minimum-norm search")
    probe, batch = subject.prepared(quick(kind)), subject.batch
    for norm in probe.norms:
        images, answers, found = probe.nearest(subject.classifier, batch, Randomness(0, kind.meta.id), norm)
        if images.shape != batch.pixels.shape or images.dtype != np.float32:
            raise Breach(f"images are {images.dtype} {images.shape} in {norm}; expected float32 {batch.pixels.shape}")
        if not (images.min() >= 0 and images.max() <= 1):
            raise Breach(f"pixels go from {images.min():g} to {images.max():g} in {norm}; expected 0 to 1")
        changed = (images != batch.pixels).reshape(len(images), -1).any(axis=1)
        right = batch.predictions == batch.labels
        if ((answers.argmax(axis=1) != batch.labels) != changed)[right].any() or not found[changed].all():
            raise Breach(f"in {norm} an image was moved and is not misclassified, or misclassified and was not moved")


def _beats_random_noise(subject: Subject, kind: type[Probe]) -> None:
    """Check that an attack succeeds more often than random noise of equal size; without a size, at least once."""
    import numpy as np

    if kind.meta.area != "attacks":
        raise NotApplicable("is not an attack")
    threat = kind().threat_model()
    if threat is not None and threat.knowledge == "none":
        raise NotApplicable("is a random attack")
    # more iterations than in the other checks: too few are no better than chance
    probe = quick(kind, few=20)
    if not issubclass(kind, Attack | MinimumNorm):
        rows = subject.whole(probe)
        if "success" not in rows and "perturbed_prediction" not in rows:
            raise NotApplicable("has no column success or perturbed_prediction")
        labels = dict(zip(subject.batch.ids, subject.batch.labels, strict=True))
        wrong = rows["success"] if "success" in rows else rows["perturbed_prediction"] != rows["image_id"].map(labels)
        if not wrong.astype(bool).any():
            raise Breach(f"succeeded on none of {len(subject.images)} images of a fragile model")
        return
    attacking, batch, classifier = subject.prepared(probe), subject.batch, subject.classifier
    right = np.flatnonzero(batch.predictions == batch.labels)[:_VICTIMS]
    victims = batch.take(right)
    broken = by_chance = tried = 0.0
    for norm, images in _attacked(attacking, classifier, victims):
        wrong = classifier.predict(images).argmax(axis=1) != victims.labels
        size = np.linalg.norm((images - victims.pixels).reshape(len(victims), -1), ord=_ORDER[norm], axis=1)
        broken += wrong.sum()
        tried += len(victims)
        for chance in range(_CHANCES):
            noisy = _noise(victims.pixels, size, norm, np.random.default_rng(chance))
            by_chance += (classifier.predict(noisy).argmax(axis=1) != victims.labels).sum() / _CHANCES
    if broken <= by_chance:
        raise Breach(
            f"succeeded on {broken:.0f} of {tried:.0f} images (over all levels) of a fragile model; random noise of the"
            f" same size on {by_chance:.4g}"
        )


def _attacked(probe: Any, classifier: Classifier, victims: Batch) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield norm and attacked images at every level, or at the distance that a search found."""
    rng = Randomness(0, probe.meta.id)
    if isinstance(probe, MinimumNorm):
        for norm in probe.norms:
            yield norm, probe.nearest(classifier, victims, rng, norm)[0]
        return
    for level in probe.levels():
        yield str(level["norm"]), probe.perturbed(classifier, victims, rng, level)


def _noise(
    clean: NDArray[np.float32], size: NDArray[np.float64], norm: str, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Add random noise of these lengths to clean images: corners of the box for L-inf, else any direction."""
    import numpy as np

    noise = rng.standard_normal(clean.shape)
    if norm == "linf":
        noise = np.sign(noise)
    length = np.linalg.norm(noise.reshape(len(noise), -1), ord=_ORDER[norm], axis=1)
    moved: NDArray[np.float32] = (clean + noise * (size / length).reshape(-1, 1, 1, 1)).clip(0, 1).astype(np.float32)
    return moved


CHECKS: Mapping[str, Callable[[Subject, type[Probe]], None]] = {
    "has a description": _has_a_description,
    "is configurable": _is_configurable,
    "batch unchanged": _does_not_change_the_batch,
    "same seed, same rows": _is_reproducible,
    "same rows in any batch": _is_independent_of_the_batch,
    "within range and budget": _stays_in_bounds,
    "reports real errors": _reports_real_errors,
    "beats random noise": _beats_random_noise,
}
"""By name; each raises Breach if the probe fails it, and NotApplicable if it does not concern the probe."""


def check_record(record: Mapping[str, Any]) -> None:
    """Check a probe's part of audit.json: it ran, findings have unique ids and state n, metrics fit their specs.

    Raises:
        Breach: if it fails.
        NotApplicable: if the probe was not applicable.
    """
    if record["status"] == "not-applicable":
        raise NotApplicable(record["reason"])
    if record["status"] == "error":
        raise Breach(f"ended as an error: {record['reason']}")
    _check_findings(record["id"], record["findings"])
    places = [(metric["name"], json.dumps(metric["at"], sort_keys=True)) for metric in record["metrics"]]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise Breach(f"two metrics are called {twice[0]} at {twice[1]}")
    specs = {spec["name"]: spec for spec in record["metric_specs"]}
    if len(specs) < len(record["metric_specs"]):
        raise Breach("metrics declares a name twice")
    for metric in record["metrics"]:
        _check_metric(metric, specs.get(metric["name"]))


def _check_findings(probe_id: str, findings: Sequence[Mapping[str, Any]]) -> None:
    ids = [finding["id"] for finding in findings]
    if not ids:
        raise Breach("conclude returned no finding; return at least one, even if nothing failed")
    if len(set(ids)) < len(ids):
        raise Breach(f"two findings have the id {next(i for i in ids if ids.count(i) > 1)}")
    for finding in findings:
        if not finding["id"].startswith(f"{probe_id}/"):
            raise Breach(f"finding {finding['id']}: its id must begin with {probe_id}/")
        if finding["metric"] is None and finding.get("n") is None:
            raise Breach(f"finding {finding['id']} has neither a metric nor n: {finding['statement']!r}")


def _check_metric(metric: Mapping[str, Any], spec: Mapping[str, Any] | None) -> None:
    name, unit = metric["name"], metric["unit"]
    if spec is None:
        raise Breach(f"metric {name} has no MetricSpec in the probe's metrics")
    expected = _NORM_UNITS.get(metric["at"].get("norm")) if spec["unit"] == "norm" else spec["unit"]
    if unit != expected:
        raise Breach(f"metric {name} has unit {unit} at {metric['at']}; its MetricSpec declares {spec['unit']}")
    low, value, high = metric["low"], metric["value"], metric["high"]
    if None not in {low, value, high} and not low - 1e-6 <= value <= high + 1e-6:
        raise Breach(f"metric {name}: {value:g} is not within its interval [{low:g}, {high:g}]")
    if unit == "fraction" and value is not None and abs(value) > 1:
        raise Breach(f"metric {name} is {value:g}, but its unit is fraction")


_NORM_UNITS = {"linf": "linf", "l2": "l2", "l1": "l1", "snr": "dB"}
"""Unit of a metric whose spec has the unit "norm", by the norm that it was measured at."""


def heavy_imports(code: str, *, paths: Sequence[Path] = (), heavy: Sequence[str] = HEAVY) -> list[str]:
    """Return the heavy modules that are loaded after running ``code`` in a fresh process.

    ``paths`` are searched before ``sys.path``.
    """
    report = f"\nimport sys; print(*[name for name in {tuple(heavy)!r} if name in sys.modules])"
    known = [str(path) for path in paths] + [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", code + report],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(known)},
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Breach(f"does not import in a fresh process: {lines[-1] if lines else f'status {done.returncode}'}")
    return done.stdout.split()
