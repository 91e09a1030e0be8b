"""What every probe owes the engine, checked: for ``auditor plugin check`` and for the contract tests.

``CHECKS`` are asked of one probe at a time, on a ``Subject`` (a model and some images in memory); ``check_record`` is
asked of the probe's part of a finished audit. Both raise ``Breach`` with one sentence for the plugin's author.
``check_package`` does all of it for an installed package or a folder that could be one, on ``write_subject``'s small
model that every attack must break.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.conformance.subject import quick
from auditor.errors import BadInput, NotApplicable, PluginBroken
from auditor.findings.encoding import plain
from auditor.plugin import registry
from auditor.plugin.registry import Registry
from auditor.probes.attack import Attack
from auditor.probes.base import Probe, Randomness
from auditor.probes.minimum_norm import MinimumNorm

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
from auditor.conformance.subject import Breach, Subject

HEAVY = ("torch", "art", "pandas", "sklearn", "scipy", "matplotlib", "onnxruntime", "onnx", "PIL", "pyarrow",
         "tensorflow", "cv2", "skimage")  # fmt: skip
"""What no plugin may import at the top of its module."""

_SAYS_N = re.compile(r"n = \d|\d+ of \d+|\d+ images|Cannot tell")
_ROUNDING = 2e-6
_ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
_VICTIMS = 12
_CHANCES = 4
"""Draws of noise of an attack's size for each image that the attack is compared with."""


def _says_what_it_is(subject: Subject, kind: type[Probe]) -> None:
    """Meta, settings and threat model, as the registry wants them, and as a reviewer reads them."""
    del subject
    try:
        registry.check_probe(kind)
    except PluginBroken as error:
        raise Breach(str(error)) from None
    meta = kind.meta
    if not meta.why.strip().endswith((".", "?")):
        raise Breach(f"meta.why must be whole sentences; {meta.why!r} ends without a full stop")
    if not meta.input_kinds or set(meta.input_kinds) - {"images", "rows"}:
        raise Breach(f"meta.input_kinds is {sorted(meta.input_kinds)}; expected images, rows or both")
    unknown = set(meta.needs) - {"labels", "gradients", "groups"}
    if unknown:
        raise Breach(f"meta.needs names {sorted(unknown)}; expected some of labels, gradients, groups")
    strange = [reference for reference in meta.references if not reference.startswith("https://")]
    if strange:
        raise Breach(f"meta.references must be https:// addresses; {strange[0]!r} is none")
    threat = kind().threat_model()
    if threat is None:
        if meta.area == "attacks":
            raise Breach("threat_model() is None; an attack says who attacks, knowing what, allowed what")
        return
    empty = [name for name, value in plain(threat).items() if not value]
    if empty:
        raise Breach(f"threat_model() leaves {', '.join(empty)} empty")
    if threat.knowledge not in {"white-box", "black-box", "none"}:
        raise Breach(f"threat_model().knowledge is {threat.knowledge!r}; expected white-box, black-box or none")


def _is_configurable(subject: Subject, kind: type[Probe]) -> None:
    """Settings come back from a suite file as they went in, and an unknown one is refused."""
    probe = kind()
    try:
        told = json.loads(json.dumps(dataclasses.asdict(probe)))
        again = _configured(subject.plugins, kind, told)
    except (BadInput, TypeError, ValueError) as error:
        raise Breach(f"the settings do not survive JSON: {error}") from None
    if again != probe:
        lost = [f.name for f in dataclasses.fields(kind) if getattr(again, f.name) != getattr(probe, f.name)]
        raise Breach(f"{', '.join(lost) or 'a setting'} comes back changed from JSON; use numbers, texts, tuples")


def _configured(plugins: Registry, kind: type[Probe], settings: Mapping[str, Any]) -> Probe:
    """As a suite file configures it; the registry may not know the class under its id."""
    known = Registry(plugins.manager, probes={kind.meta.id: kind})
    return known.configure(kind.meta.id, settings, where="settings")


def _leaves_the_batch_alone(subject: Subject, kind: type[Probe]) -> None:
    """Pixels, labels and clean answers are the same after measuring, and nothing returned is a view of them."""
    import numpy as np

    probe, batch, was = quick(kind), subject.batch, subject.images
    rows = subject.measure(probe, batch)
    strangers = set(rows["image_id"]) - set(batch.ids)
    if strangers:
        raise Breach(f"measure gave rows of images that were not in the batch: {sorted(strangers)[:3]}")
    measuring = subject.prepared(probe)
    if hasattr(measuring, "perturbed"):
        for level in _levels(measuring):
            given = measuring.perturbed(subject.classifier, batch, Randomness(0, kind.meta.id), level)
            if np.shares_memory(given, batch.pixels):
                raise Breach(f"perturbed returned a view of the batch at {dict(level)}; return a new array")
    for name in ("pixels", "labels", "probabilities"):
        if not np.array_equal(getattr(was, name), getattr(batch, name)):
            raise Breach(f"measure changed batch.{name}; work on a copy")


def _says_the_same_again(subject: Subject, kind: type[Probe]) -> None:
    """Same seed, same rows, to the last bit."""
    probe = quick(kind)
    again = subject.measure(probe, subject.batch)
    told = _difference(subject.whole(probe), again, exactly=True)
    if told:
        raise Breach(f"measured twice with one seed, {told}; draw random numbers from rng(image_id) alone")


def _needs_no_company(subject: Subject, kind: type[Probe]) -> None:
    """An image gives the same rows in any batch, up to what float32 rounds."""
    import pandas as pd

    probe = quick(kind)
    n = len(subject.images)
    order = [n - 2, *range(0, n - 2), n - 1][::-1]
    parts = [subject.measure(probe, subject.images.take(part)) for part in (order[:1], order[1:3], order[3:])]
    pieces = pd.concat(parts).sort_values("image_id", kind="stable", ignore_index=True)
    told = _difference(subject.whole(probe), pieces, exactly=False)
    if told:
        raise Breach(f"in batches of 1, 2 and {n - 3} images, {told}; let no image see its neighbours")


def _difference(one: pd.DataFrame, other: pd.DataFrame, *, exactly: bool) -> str:
    """Where two sets of rows differ, in words; "" where they do not."""
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
            # where a copy is compared with its original, rounding itself is measured
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
    """Perturbed images are float32 in [0, 1], of the same shape, and within the level's budget."""
    import numpy as np

    probe = subject.prepared(quick(kind))
    if not hasattr(probe, "perturbed"):
        raise NotApplicable("perturbs no images")
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
    """What a probe that perturbs can be asked for."""
    if hasattr(probe, "levels"):
        return list(probe.levels())
    return list(probe.control_levels()) if hasattr(probe, "control_levels") else []


def _finds_real_errors(subject: Subject, kind: type[Probe]) -> None:
    """What a minimum-norm search calls broken is broken, and nothing else has moved."""
    import numpy as np

    if not issubclass(kind, MinimumNorm):
        raise NotApplicable("searches no nearest error")
    probe, batch = subject.prepared(quick(kind)), subject.batch
    for norm in probe.norms:
        images, answers, found = probe.nearest(subject.classifier, batch, Randomness(0, kind.meta.id), norm)
        if images.shape != batch.pixels.shape or images.dtype != np.float32:
            raise Breach(f"images are {images.dtype} {images.shape} in {norm}; expected float32 {batch.pixels.shape}")
        if not (images.min() >= 0 and images.max() <= 1):
            raise Breach(f"pixels go from {images.min():g} to {images.max():g} in {norm}; expected 0 to 1")
        changed = (images != batch.pixels).any(axis=(1, 2, 3))
        right = batch.predictions == batch.labels
        if ((answers.argmax(axis=1) != batch.labels) != changed)[right].any() or not found[changed].all():
            raise Breach(f"in {norm} an image was moved and is not broken, or broken and was not moved")


def _breaks_what_is_fragile(subject: Subject, kind: type[Probe]) -> None:
    """An attack breaks more images than random noise of equal size; one without a size, any at all."""
    import numpy as np

    if kind.meta.area != "attacks":
        raise NotApplicable("is no attack")
    threat = kind().threat_model()
    if threat is not None and threat.knowledge == "none":
        raise NotApplicable("attacks by chance")
    # harder than the other checks: who is given no time is no better than chance
    probe = quick(kind, few=20)
    if not issubclass(kind, Attack | MinimumNorm):
        rows = subject.whole(probe)
        if "success" not in rows and "perturbed_prediction" not in rows:
            raise NotApplicable("has neither a column success nor perturbed_prediction")
        labels = dict(zip(subject.batch.ids, subject.batch.labels, strict=True))
        wrong = rows["success"] if "success" in rows else rows["perturbed_prediction"] != rows["image_id"].map(labels)
        if not wrong.astype(bool).any():
            raise Breach(f"broke none of {len(subject.images)} images of a model that breaks easily")
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
            f"broke {broken:.0f} of {tried:.0f} images (over its levels) of a model that breaks easily; random noise of"
            f" the same size broke {by_chance:.4g}"
        )


def _attacked(probe: Any, classifier: Classifier, victims: Batch) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Norm and attacked images at every level, or at the distance that a search found."""
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
    """Clean images with random noise of these lengths: corners of the box for L-inf, else any direction."""
    import numpy as np

    noise = rng.standard_normal(clean.shape)
    if norm == "linf":
        noise = np.sign(noise)
    length = np.linalg.norm(noise.reshape(len(noise), -1), ord=_ORDER[norm], axis=1)
    moved: NDArray[np.float32] = (clean + noise * (size / length).reshape(-1, 1, 1, 1)).clip(0, 1).astype(np.float32)
    return moved


CHECKS: Mapping[str, Callable[[Subject, type[Probe]], None]] = {
    "says what it is": _says_what_it_is,
    "is configurable": _is_configurable,
    "leaves the batch alone": _leaves_the_batch_alone,
    "same seed, same rows": _says_the_same_again,
    "same rows in any batch": _needs_no_company,
    "within range and budget": _stays_in_bounds,
    "finds real errors": _finds_real_errors,
    "beats random noise": _breaks_what_is_fragile,
}
"""By name; each raises Breach where the probe fails it and NotApplicable where it is not about that probe."""


def check_record(record: Mapping[str, Any]) -> None:
    """Check a probe's part of audit.json: it ran, findings have unique ids and state n, metrics fit their specs.

    Raises Breach, or NotApplicable if the probe was not applicable.
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
        raise Breach("conclude gave no finding; give one at least, also when there is nothing to complain about")
    if len(set(ids)) < len(ids):
        raise Breach(f"two findings have the id {next(i for i in ids if ids.count(i) > 1)}")
    for finding in findings:
        if not finding["id"].startswith(f"{probe_id}/"):
            raise Breach(f"finding {finding['id']}: its id must begin with {probe_id}/")
        if not _SAYS_N.search(finding["statement"]):
            raise Breach(f"finding {finding['id']} does not say n: {finding['statement']!r}")


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
    """Which of the heavy modules are there after this code ran in a fresh process; ``paths`` go before sys.path."""
    ask = f"\nimport sys; print(*[name for name in {tuple(heavy)!r} if name in sys.modules])"
    known = [str(path) for path in paths] + [path for path in sys.path if path]
    done = subprocess.run(
        [sys.executable, "-c", code + ask], check=False, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(known)},
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Breach(f"does not import in a fresh process: {lines[-1] if lines else f'status {done.returncode}'}")
    return done.stdout.split()
