"""What every probe owes the engine, checked: for ``auditor plugin check`` and for the contract tests.

``CHECKS`` are asked of one probe at a time, on a ``Subject`` (a model and some images in memory); ``check_record`` is
asked of the probe's part of a finished audit. Both raise ``Breach`` with one sentence for the plugin's author.
``check_package`` does all of it for an installed package or a folder that could be one, on ``write_subject``'s small
model that every attack must break.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from auditor import registry
from auditor.errors import AuditorError, BadInput, NotApplicable, PluginBroken, one_line
from auditor.families import Attack, MinimumNorm
from auditor.finding import plain
from auditor.probe import Probe, Randomness, Run
from auditor.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.classifier import Classifier
    from auditor.images import Batch

HEAVY = ("torch", "art", "pandas", "sklearn", "scipy", "matplotlib", "onnxruntime", "onnx", "PIL", "pyarrow",
         "tensorflow", "cv2", "skimage")  # fmt: skip
"""What no plugin may import at the top of its module."""

_FEW = {"iterations", "queries", "resamples", "batches", "batch_samples", "draws"}
"""Settings that say how long a probe works."""

_SAYS_N = re.compile(r"n = \d|\d+ of \d+|\d+ images|Cannot tell")
_ROUNDING = 2e-6
_ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
_VICTIMS = 12
_CHANCES = 4
"""Draws of noise of an attack's size for each image that the attack is compared with."""


class Breach(AuditorError):
    """A probe does not do what it owes; the message is for its author."""


@dataclass(kw_only=True)
class Subject:
    """A model and images on which probes are tried."""

    classifier: Classifier
    images: Batch
    plugins: Registry
    _prepared: dict[str, Probe] = field(default_factory=dict)
    _rows: dict[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def batch(self) -> Batch:
        """All images; a copy, so that a probe that changes its input spoils no other check."""
        return self.images.take(range(len(self.images)))

    def prepared(self, probe: Probe) -> Any:
        """The probe that measures, as the engine asks for it. Raises NotApplicable."""
        key = repr(probe)
        if key not in self._prepared:
            whole = self.images
            run = Run(
                classifier=self.classifier,
                probes=[quick(kind) for kind in self.plugins.probes.values()],
                ids=whole.ids,
                batch=lambda ids: whole.take([whole.ids.index(image_id) for image_id in ids]),
                rng=Randomness(0, probe.meta.id),
            )
            self._prepared[key] = probe.prepare(run)
        return self._prepared[key]

    def measure(self, probe: Probe, some: Batch) -> pd.DataFrame:
        """Rows of a batch by image id, in the order in which the probe gave them."""
        import numpy as np
        import pandas as pd

        given = self.prepared(probe).measure(self.classifier, some, Randomness(0, probe.meta.id))
        if not isinstance(given, Mapping):
            raise Breach(f"measure returned {type(given).__name__}; expected columns by name")
        columns = dict(given)
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise Breach(f"measure returned columns of different lengths: {lengths}")
        if "row" not in columns and set(lengths.values()) - {len(some)}:
            raise Breach(f"measure returned {max(lengths.values())} rows for {len(some)} images and no column row")
        rows = np.asarray(columns.pop("row", np.arange(len(some))))
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(some)):
            raise Breach(f"column row goes from {rows.min()} to {rows.max()}; the batch has {len(some)} images")
        for name, values in columns.items():
            if isinstance(values, np.ndarray) and np.shares_memory(values, some.pixels):
                raise Breach(f"column {name} shares memory with the batch; return a copy")
        cells = {name: list(np.asarray(values)) for name, values in columns.items()}
        frame = pd.DataFrame(cells, index=range(len(rows)))
        frame.insert(0, "image_id", [some.ids[row] for row in rows])
        return frame.sort_values("image_id", kind="stable", ignore_index=True)

    def whole(self, probe: Probe) -> pd.DataFrame:
        """Rows of all images, measured once for all checks."""
        key = repr(probe)
        if key not in self._rows:
            self._rows[key] = self.measure(probe, self.batch)
        return self._rows[key]


def quick(kind: type[Probe], few: int = 3) -> Probe:
    """A probe with as little to do as its settings allow: two of every list of numbers, few iterations."""
    settings: dict[str, Any] = {}
    for setting in dataclasses.fields(kind):
        value = setting.default
        if isinstance(value, tuple) and len(value) > 2:
            settings[setting.name] = (value[0], value[-1])
        elif setting.name in _FEW and isinstance(value, int) and not isinstance(value, bool):
            settings[setting.name] = min(value, few)
    try:
        return kind(**settings)
    except ValueError:
        # its own checks do not allow so little
        return kind()


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
    if not meta.takes or set(meta.takes) - {"images", "rows"}:
        raise Breach(f"meta.takes is {sorted(meta.takes)}; expected images, rows or both")
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
    """A probe's part of audit.json: it ran, every finding has an id of its own and says n, numbers are in their
    intervals. Raises Breach; NotApplicable where the probe was not applicable."""
    if record["status"] == "not-applicable":
        raise NotApplicable(record["reason"])
    if record["status"] == "error":
        raise Breach(f"ended as an error: {record['reason']}")
    ids = [finding["id"] for finding in record["findings"]]
    if not ids:
        raise Breach("conclude gave no finding; give one at least, also when there is nothing to complain about")
    if len(set(ids)) < len(ids):
        raise Breach(f"two findings have the id {next(i for i in ids if ids.count(i) > 1)}")
    for finding in record["findings"]:
        if not finding["id"].startswith(f"{record['id']}/"):
            raise Breach(f"finding {finding['id']}: its id must begin with {record['id']}/")
        if not _SAYS_N.search(finding["statement"]):
            raise Breach(f"finding {finding['id']} does not say n: {finding['statement']!r}")
    places = [(metric["name"], json.dumps(metric["at"], sort_keys=True)) for metric in record["metrics"]]
    if len(set(places)) < len(places):
        twice = next(place for place in places if places.count(place) > 1)
        raise Breach(f"two metrics are called {twice[0]} at {twice[1]}")
    for metric in record["metrics"]:
        low, value, high = metric["low"], metric["value"], metric["high"]
        if None not in {low, value, high} and not low - 1e-6 <= value <= high + 1e-6:
            raise Breach(f"metric {metric['name']}: {value:g} is not within its interval [{low:g}, {high:g}]")
        if metric["unit"] == "fraction" and metric["name"] != "accuracy_gap" and value is not None and abs(value) > 1:
            raise Breach(f"metric {metric['name']} is {value:g}, but its unit is fraction")


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


Outcome = Literal["ok", "FAILED", "n/a"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """How one probe, or the package itself, did in one check."""

    probe: str
    """Its id; "" for the package."""
    name: str
    outcome: Outcome
    said: str = ""
    """What is wrong, or why the check is not about this probe."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A package and its checks."""

    package: str
    version: str
    probes: Sequence[str]
    checks: Sequence[Check]

    @property
    def failed(self) -> Sequence[Check]:
        """The checks that did not hold."""
        return [check for check in self.checks if check.outcome == "FAILED"]


def check_package(package: str, say: Callable[[str], None] = lambda _: None) -> Report:
    """Everything about an installed package, by its name, or about a folder with a pyproject.toml.

    Raises BadInput for what is neither, or is no plugin of the auditor.
    """
    with _findable(package) as (name, paths):
        distribution = _distribution(name)
        entries = [entry for entry in distribution.entry_points if entry.group == registry.GROUP]
        if not entries:
            raise BadInput(
                f'{package}: has no entry point in the group "{registry.GROUP}" (see docs/how-to/plugins.md)'
            )
        plugins = registry.load()
        own = [plugin for plugin in plugins.plugins if _normal(plugin.package) == _normal(name)]
        names = {plugin.name for plugin in own}
        probes = [probe_id for probe_id, origin in plugins.origin.items() if origin in names]
        checks = [
            Check(probe="", name="loads", outcome="FAILED" if plugin.error else "ok", said=plugin.error or "")
            for plugin in own
        ]
        code = "\n".join(f"import {entry.module}" for entry in entries)
        checks.append(_outcome("", "imports nothing heavy", lambda: _light(code, paths)))
        if probes:
            with tempfile.TemporaryDirectory() as folder:
                checks += _check_probes(plugins, probes, Path(folder), say)
        return Report(package=name, version=distribution.version, probes=probes, checks=checks)


def _light(code: str, paths: Sequence[Path]) -> None:
    found = heavy_imports(code, paths=paths)
    if found:
        raise Breach(f"imports {', '.join(found)} at the top; import it inside the method that needs it")


def _check_probes(
    plugins: Registry, probes: Sequence[str], folder: Path, say: Callable[[str], None]
) -> Iterator[Check]:
    model, data = write_subject(folder)
    subject = open_subject(plugins, model, data)
    records = audit(plugins, probes, model=model, data=data, folder=folder)
    for probe_id in probes:
        say(probe_id)
        kind = plugins.probes[probe_id]
        for name, check in CHECKS.items():
            if "images" not in kind.meta.takes and name not in {"says what it is", "is configurable"}:
                continue
            yield _outcome(probe_id, name, lambda check=check, kind=kind: check(subject, kind))  # type: ignore[misc]
        yield _outcome(probe_id, "concludes", lambda probe_id=probe_id: check_record(records[probe_id]))  # type: ignore[misc]


def _outcome(probe: str, name: str, check: Callable[[], None]) -> Check:
    try:
        check()
    except NotApplicable as reason:
        return Check(probe=probe, name=name, outcome="n/a", said=str(reason))
    except Breach as breach:
        return Check(probe=probe, name=name, outcome="FAILED", said=str(breach))
    except (Exception, SystemExit) as error:
        return Check(probe=probe, name=name, outcome="FAILED", said=one_line(error))
    return Check(probe=probe, name=name, outcome="ok")


def open_subject(plugins: Registry, model: Path, data: Path | None, samples: int | None = None) -> Subject:
    """A model file and its images, in memory, in two groups."""
    from auditor.engine import Request, open_audit
    from auditor.images import Batch

    request = Request(model=model, data=data, samples=samples, trust_model=True)
    classifier, images = open_audit(plugins, request, plugins.suite("full"), "cpu")
    pixels = images.pixels(images.ids)
    if images.labels is None:
        raise BadInput(f"{images.path}: has no labels; expected labelled images")
    batch = Batch(
        ids=images.ids, pixels=pixels, labels=images.labels, probabilities=classifier.predict(pixels),
        groups={"side": [("left", "right")[i % 2] for i in range(len(pixels))]},
    )  # fmt: skip
    return Subject(classifier=classifier, images=batch, plugins=plugins)


def audit(
    plugins: Registry, probes: Sequence[str], *, model: Path, data: Path, folder: Path
) -> Mapping[str, Mapping[str, Any]]:
    """A real audit by these probes and those whose records they read; their parts of audit.json by id."""
    from auditor.engine import Request, run

    used = [pattern for probe_id in probes for pattern in plugins.probes[probe_id].uses]
    chosen = dict.fromkeys([*probes, *(i for pattern in used for i in fnmatch.filter(plugins.probes, pattern))])
    suite = write_suite(plugins, list(chosen), folder / "conformance.toml")
    request = Request(
        model=model, data=data, suite=str(suite), out=folder / "run", formats=(), trust_model=True, device="cpu"
    )
    return {record["id"]: record for record in run(request).audit["probes"]}


def write_suite(plugins: Registry, probes: Sequence[str], path: Path) -> Path:
    """A suite file with these probes, as little to do as their settings allow; its path."""
    lines = [f"probes = {json.dumps(probes)}"]
    for probe_id in probes:
        probe = quick(plugins.probes[probe_id])
        lines += [f'[settings."{probe_id}"]']
        lines += [
            f"{setting.name} = {json.dumps(getattr(probe, setting.name))}"
            for setting in dataclasses.fields(probe)
            if getattr(probe, setting.name) != setting.default and setting.default is not dataclasses.MISSING
        ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_subject(folder: Path) -> tuple[Path, Path]:
    """A small convolutional network that breaks easily, as ONNX, and 24 images that it gets right; both paths.

    Random weights over 768 pixels: the gradient's many small components add up along its sign and cancel in noise,
    which is the linear explanation of adversarial examples (Goodfellow, Shlens and Szegedy 2015, arXiv:1412.6572,
    section 3). The labels are the network's own answers.
    """
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(20)
    # what photographs have most of, slow changes, and some detail
    slow = np.kron(rng.uniform(0.2, 0.8, (24, 3, 4, 4)), np.ones((1, 1, 4, 4)))
    images = (slow + rng.normal(0, 0.05, (24, 3, 16, 16))).clip(0, 1).astype(np.float32)
    weights = {
        "kernels1": rng.normal(0, 0.3, (8, 3, 3, 3)),
        "kernels2": rng.normal(0, 0.2, (8, 8, 3, 3)),
        "readout": rng.normal(0, 0.1, (4, 8 * 12 * 12)),
        "bias": np.zeros(4),
    }

    def network(given: Mapping[str, NDArray[np.float64]]) -> bytes:
        nodes = [
            helper.make_node("Conv", ["image", "kernels1"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "kernels2"], ["c"]),
            helper.make_node("Relu", ["c"], ["d"]),
            helper.make_node("Flatten", ["d"], ["e"]),
            helper.make_node("Gemm", ["e", "readout", "bias"], ["logits"], transB=1),
        ]
        graph = helper.make_graph(
            nodes, "fragile",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])],
            [numpy_helper.from_array(array.astype(np.float32), name) for name, array in given.items()],
        )  # fmt: skip
        made: bytes = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
        ).SerializeToString()
        return made

    def answers(made: bytes) -> NDArray[np.float64]:
        session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"image": images})[0], dtype=np.float64)

    # every class its share of the images, and a margin of about 3 nats
    logits = answers(network(weights))
    factor = 3 / logits.std(axis=0).mean()
    weights |= {"readout": weights["readout"] * factor, "bias": -logits.mean(axis=0) * factor}
    made = network(weights)
    onnx.checker.check_model(onnx.load_from_string(made))
    model, data = folder / "fragile.onnx", folder / "fragile.npz"
    model.write_bytes(made)
    sides = np.array(["left", "right"] * 12)
    np.savez(data, images=images, labels=answers(made).argmax(axis=1), groups_side=sides)
    return model, data


@contextmanager
def _findable(package: str) -> Iterator[tuple[str, Sequence[Path]]]:
    """The name under which a package is found while the context lasts, and what it takes on sys.path for that.

    A folder is found as if it were installed: beside it goes what an installer would write about it.
    """
    folder = Path(package)
    if not folder.is_dir() or (not (folder / "pyproject.toml").is_file() and _is_installed(package)):
        yield package, ()
        return
    project = _project(folder)
    with tempfile.TemporaryDirectory() as place:
        name = str(project["name"])
        about = Path(place) / f"{_normal(name).replace('-', '_')}-{project.get('version', 0)}.dist-info"
        about.mkdir()
        about.joinpath("METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {project.get('version', 0)}\n", encoding="utf-8"
        )
        entries = project["entry-points"][registry.GROUP]
        lines = [f"[{registry.GROUP}]", *(f"{key} = {value}" for key, value in entries.items())]
        about.joinpath("entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
        root = folder.resolve()
        paths = [Path(place), *([root / "src"] if (root / "src").is_dir() else []), root]
        before = list(sys.path)
        sys.path[:0] = [str(path) for path in paths]
        importlib.invalidate_caches()
        try:
            yield name, paths
        finally:
            sys.path[:] = before


def _project(folder: Path) -> dict[str, Any]:
    """The table [project] of a folder's pyproject.toml, with the auditor's entry points."""
    path = folder / "pyproject.toml"
    if not path.is_file():
        raise BadInput(f"{folder}: has no pyproject.toml; expected a package's folder or an installed package's name")
    try:
        project: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadInput(f"{path}: not readable as TOML: {error}") from None
    entries = project.get("entry-points", {}).get(registry.GROUP) if isinstance(project, dict) else None
    if not (isinstance(entries, dict) and entries and isinstance(project.get("name"), str)):
        raise BadInput(
            f'{path}: has no name with [project.entry-points."{registry.GROUP}"]; expected a plugin of the auditor'
            " (see docs/how-to/plugins.md); if its entry points are written elsewhere, install it and give its name"
        )
    return project


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise BadInput(
            f"{name}: no such folder, and no installed package is called so; expected one of them (what is installed"
            " is in `auditor probes`)"
        ) from None


def _normal(name: str) -> str:
    """A package's name as installers compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()
