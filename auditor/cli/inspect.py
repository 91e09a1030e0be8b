"""What `auditor inspect` prints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.model.classifier import Classifier

if TYPE_CHECKING:
    pass


def describe_model(path: Path, device: str, overrides: Mapping[str, Any] | None = None, *, trust: bool = False) -> str:
    """What ``auditor inspect`` says of a model file; ``stated`` is what the command line says about it."""
    import numpy as np

    from auditor.data import sample_photos
    from auditor.data.dataset import Images
    from auditor.errors import BadInput
    from auditor.model import presets
    from auditor.model.classifier import first_line
    from auditor.run import opening

    classifier = opening.open_model(path, device, overrides, trust=trust)
    if classifier.input_kind == "rows":
        # features have their own units, of which the file says nothing
        looked_at = np.random.default_rng(0).uniform(size=(16, *classifier.shape)).astype(np.float32)
    else:
        pixels = Images(sample_photos.source(), shape=classifier.shape)
        looked_at = pixels.pixels(pixels.ids[:16])
    try:
        classifier.predict(looked_at)
        classifier.verify(looked_at)
    except (ArithmeticError, RuntimeError) as error:
        raise BadInput(f"{path}: {first_line(error)}, asked about photographs; expected finite scores") from None
    a, p = classifier.artefact, classifier.preprocessing
    channels, height, width = p.shape
    tabular = classifier.input_kind == "rows"
    size = f"a row of {width} features" if tabular else f"{channels} x {height} x {width}"
    parity = classifier.parity
    rows = {
        "file": f"{path} ({path.stat().st_size:,} bytes)",
        "sha256": classifier.sha256,
        "format": a.format,
        "producer": a.details.get("producer", ""),
        "opset": ", ".join(f"{k} {v}" for k, v in a.details.get("opset", {}).items()),
        "runtime": a.runtime,
        "input": f"{a.details.get('input', 'image')}: {size}, {p.dtype}, {p.layout}, batch"
        f" {'of any size' if classifier.fixed_batch is None else f'always {classifier.fixed_batch}'}",
        "preprocessing": "features in their own units"
        if tabular
        else f"pixels to [{p.range[0]:g}, {p.range[1]:g}], mean {list(p.mean)}, std {list(p.std)},"
        f" {p.order}{f' ({preset})' if (preset := presets.name_of(p)) else ''}; from {classifier.preprocessing_source}",
        "output": _describe_output(classifier),
        "classes": ", ".join(classifier.classes[:10]) + (", ..." if classifier.n_classes > 10 else ""),
        "precision": a.precision,
        "parameters": f"{a.details.get('parameters', 0):,}",
        "operators": ", ".join(a.details.get("operators", [])),
        "access": f"{classifier.access}: {classifier.access_reason}",
        "parity": ""
        if parity is None
        else f"largest difference of a score {parity.max_abs_difference:.2g}, same label"
        f" for {100 * (parity.label_agreement or 0):.0f} % of {parity.n} {'rows' if tabular else 'photographs'}",
    }
    lines = [f"{name:<14} {value}" for name, value in rows.items() if value]
    return "\n".join(lines + [f"warning        {warning}" for warning in classifier.warnings])


def _describe_output(classifier: Classifier) -> str:
    """Classes, logits or probabilities, where they come from, and the outputs that are not read."""
    a, reading = classifier.artefact, classifier.decoder
    parts = [f"{a.output}: " if a.output else "", f"{classifier.n_classes} classes, {reading.outputs}"]
    parts += [", one score for both"] if reading.single else []
    parts += [f", from a final {reading.activation}"] if reading.activation != "none" else []
    unread = [name for name in a.details.get("outputs", []) if name != a.output]
    return "".join([*parts, f"; not read: {', '.join(unread)}" if unread else ""])


def try_preprocessings(
    path: Path, data: Path, samples: int, device: str, overrides: Mapping[str, Any], *, trust: bool = False
) -> str:
    """The usual preprocessings on labelled images, the best first, each with its accuracy and interval.

    Comes after ``describe_model``, which has tried the file in a child process.
    """
    import numpy as np

    from auditor import statistics
    from auditor.errors import BadInput
    from auditor.model import presets
    from auditor.model.device import pick_device
    from auditor.plugin import registry
    from auditor.plugin.suite import Suite
    from auditor.run.opening import open_audit
    from auditor.run.request import Request

    plugins = registry.load()
    request = Request(model=path, data=data, overrides=overrides, trust_model=trust)
    suite = Suite("inspect", "", ["*"], samples=samples)
    classifier, images = open_audit(plugins, request, suite, pick_device(device))
    if images.labels is None:
        raise BadInput(
            f"--data {data}: has no labels, so no preprocessing can be said to fit best; give labelled images"
        )
    candidates = {"as used": classifier.preprocessing} | presets.others(classifier.preprocessing)
    if len(candidates) == 1:
        return "No other preprocessing is usual for such an input."
    hits = dict.fromkeys(candidates, 0)
    for start in range(0, len(images), 256):
        pixels = images.pixels(images.ids[start : start + 256])
        for name, candidate in candidates.items():
            answers = presets.answers(classifier.with_preprocessing(candidate), pixels)
            hits[name] += int((answers == images.labels[start : start + 256]).sum())
    lines = []
    for name in sorted(candidates, key=lambda name: -hits[name]):
        value, low, high = (100 * (v or 0) for v in statistics.wilson(hits[name], len(images)))
        called = f"{name} ({presets.name_of(candidates[name]) or 'no preset'})" if name == "as used" else name
        lines.append(f"{called:<24} {value:5.1f} % [{low:.1f}, {high:.1f}]")
    best = max(hits, key=lambda name: (hits[name], name == "as used"))
    chance = np.bincount(images.labels).max() / len(images)
    verdict = "The preprocessing in use fits best." if best == "as used" else f"Fits best: {best}."
    if hits[best] / len(images) <= chance:
        verdict = f"None does better than always naming the commonest class ({100 * chance:.1f} %)."
    return "\n".join([f"Accuracy by preprocessing (n = {len(images)}):", *lines, verdict])
