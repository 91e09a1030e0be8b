"""``auditor inspect``: describe a model file; compare preprocessings and class orders on labelled images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.findings.record import Json
from auditor.model.deployed import DeployedModel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Images, Pixels

    Labels = NDArray[np.int64]

Overrides = Mapping[str, Mapping[str, Json]]

_BATCH = 256
_MAX_CLASSES = 10


def describe_model(path: Path, device: str, overrides: Overrides | None = None, *, trust: bool = False) -> str:
    """Return a line per property of a model file, and its warnings.

    ``overrides`` are properties from the command line, in the tables of the sidecar. Raises BadInput for an unusable
    file.
    """
    from auditor.errors import BadInput, first_line
    from auditor.run import opening

    classifier = opening.open_model(path, device, overrides, trust=trust)
    inputs = _sample_inputs(classifier)
    try:
        classifier.predict(inputs)
        classifier.verify(inputs)
    except (ArithmeticError, RuntimeError) as error:
        raise BadInput(f"{path}: {first_line(error)} on photographs; expected finite scores") from None
    lines = [f"{name:<14} {value}" for name, value in _properties(path, classifier) if value]
    return "\n".join(lines + [f"warning        {warning}" for warning in classifier.warnings])


def _sample_inputs(classifier: DeployedModel) -> Pixels:
    """Return 16 packaged photographs, or random features, as the units of features are unknown."""
    import numpy as np

    from auditor.data import sample_photos
    from auditor.data.dataset import Images

    if classifier.input_kind == "rows":
        return np.random.default_rng(0).uniform(size=(16, *classifier.shape)).astype(np.float32)
    images = Images(sample_photos.source(), shape=classifier.shape)
    return images.pixels(images.ids[:16])


def _properties(path: Path, classifier: DeployedModel) -> Iterator[tuple[str, str]]:
    from auditor.model.identity import model_size

    artefact = classifier.artefact
    details = artefact.details
    files = f" in {1 + len(artefact.files)} files" if artefact.files else ""
    yield "file", f"{path} ({model_size(path, artefact.files):,} bytes{files})"
    yield "sha256", classifier.sha256
    yield "format", artefact.format
    yield "producer", details.get("producer", "")
    yield "opset", ", ".join(f"{domain} {number}" for domain, number in details.get("opset", {}).items())
    yield "runtime", artefact.runtime
    yield "input", _describe_input(classifier)
    yield "preprocessing", _describe_preprocessing(classifier)
    yield "output", _describe_output(classifier)
    more = ", ..." if classifier.n_classes > _MAX_CLASSES else ""
    yield "classes", f"{', '.join(classifier.classes[:_MAX_CLASSES])}{more}; from {classifier.classes_source}"
    yield "precision", artefact.precision
    yield "parameters", f"{details.get('parameters', 0):,}"
    yield "operators", ", ".join(details.get("operators", []))
    yield "access", f"{classifier.access}: {classifier.access_reason}"
    yield "parity", _describe_parity(classifier)


def _describe_input(classifier: DeployedModel) -> str:
    preprocessing = classifier.preprocessing
    tabular = classifier.input_kind == "rows"
    size = f"{classifier.shape[0]} tabular features" if tabular else " x ".join(map(str, classifier.shape))
    batch = "any batch size" if classifier.fixed_batch is None else f"batch size {classifier.fixed_batch} only"
    name = classifier.artefact.details.get("input", "image")
    return f"{name}: {size}, {preprocessing.dtype}, {preprocessing.layout}, {batch}"


def _describe_preprocessing(classifier: DeployedModel) -> str:
    from auditor.model import presets
    from auditor.model.preprocessing import Preprocessing

    p = classifier.preprocessing
    if not isinstance(p, Preprocessing):
        return "features in their own units"
    preset = presets.name_of(p)
    return (
        f"pixels to [{p.range[0]:g}, {p.range[1]:g}], mean {list(p.mean)}, std {list(p.std)}, {p.order}"
        f"{f' ({preset})' if preset else ''}; from {classifier.preprocessing_source}"
    )


def _describe_output(classifier: DeployedModel) -> str:
    """Return the number of classes, logits or probabilities, and the outputs that are not read."""
    artefact, decoder = classifier.artefact, classifier.decoder
    parts = [f"{artefact.output}: " if artefact.output else "", f"{classifier.n_classes} classes, {decoder.outputs}"]
    parts += [", one score for both"] if decoder.single else []
    parts += [f", from a final {decoder.activation}"] if decoder.activation != "none" else []
    unread = [name for name in artefact.details.get("outputs", []) if name != artefact.output]
    return "".join([*parts, f"; not read: {', '.join(unread)}" if unread else ""])


def _describe_parity(classifier: DeployedModel) -> str:
    parity = classifier.parity
    if parity is None:
        return ""
    inputs = "rows" if classifier.input_kind == "rows" else "photographs"
    return (
        f"largest difference of a score {parity.max_abs_difference:.2g}, same label for"
        f" {100 * (parity.label_agreement or 0):.0f} % of {parity.n} {inputs}"
    )


def compare_preprocessings(
    path: Path, data: Path, samples: int, device: str, overrides: Overrides, *, trust: bool = False
) -> str:
    """Return the accuracy of the common preprocessings on labelled images, the best first, and what fits best.

    Call ``describe_model`` first: it loads the file in the sandbox. Raises BadInput for images without labels.
    """
    from auditor.errors import BadInput
    from auditor.model.device import pick_device
    from auditor.plugin import registry
    from auditor.plugin.suite import Suite
    from auditor.run.opening import open_audit
    from auditor.run.request import Request

    request = Request(model=path, data=data, device=device, overrides=overrides, trust_model=trust)
    suite = Suite("inspect", "", ["*"], samples=samples)
    classifier, images = open_audit(registry.load(), request, suite, pick_device(device))
    if images.labels is None:
        raise BadInput(f"--data {data}: has no labels, so preprocessings cannot be compared; give labelled images")
    given = _predictions(classifier, images)
    units = "" if images.units is None else f", {len(set(images.units))} units"
    title = f"Accuracy by preprocessing (n = {len(images)}{units}):"
    return "\n".join([title, *_accuracies(classifier, given, images), *_what_fits(classifier, given, images)])


def _predictions(classifier: DeployedModel, images: Images) -> dict[str, Labels]:
    """Return the predictions with each preprocessing."""
    import numpy as np

    from auditor.model import presets

    candidates = {"as used": classifier.preprocessing} | presets.others(classifier.preprocessing)
    given: dict[str, list[Labels]] = {name: [] for name in candidates}
    for start in range(0, len(images), _BATCH):
        pixels = images.pixels(images.ids[start : start + _BATCH])
        for name, candidate in candidates.items():
            given[name].append(presets.answers(classifier.with_preprocessing(candidate), pixels))
    return {name: np.concatenate(parts) for name, parts in given.items()}


def _accuracies(classifier: DeployedModel, given: Mapping[str, Labels], images: Images) -> Iterator[str]:
    from auditor import statistics
    from auditor.model import presets

    correct = {
        name: statistics.effective_count(answers == images.labels, images.units) for name, answers in given.items()
    }
    for name in sorted(correct, key=lambda name: -correct[name].hits / correct[name].n):
        value, low, high = (100 * (end or 0) for end in statistics.wilson(*correct[name]))
        preset = presets.name_of(classifier.preprocessing) or "no preset"
        label = f"{name} ({preset})" if name == "as used" else name
        yield f"{label:<24} {value:5.1f} % [{low:.1f}, {high:.1f}]"


def _what_fits(classifier: DeployedModel, given: Mapping[str, Labels], images: Images) -> Iterator[str]:
    """Say which preprocessing fits best, and which order of the classes does if it fits better."""
    from auditor.data.class_orders import reordered
    from auditor.findings.formatting import percent
    from auditor.findings.metric import Metric
    from auditor.probes.class_orders import fitting_order, majority_share, other_orders

    assert images.labels is not None
    labels = images.labels
    share = {name: float((answers == labels).mean()) for name, answers in given.items()}
    best = max(share, key=lambda name: (share[name], name == "as used"))
    order = fitting_order(other_orders(labels, given["as used"], images.ids, classifier.classes, units=images.units))
    if order and order.explains_better(Metric(name="accuracy", value=share[best], n=len(labels))):
        names = ",".join(reordered(classifier.classes, order.mapping))
        yield (
            f"Another order of the classes fits better, {order.name}: accuracy {percent(order.accuracy)}"
            f" (n = {order.accuracy.n}). If it is the model's, give it with --classes {names}"
        )
    elif share[best] <= majority_share(labels):
        yield f"None is better than always predicting the most frequent class ({100 * majority_share(labels):.1f} %)."
    elif len(given) == 1:
        yield "There is no other common preprocessing for this input."
    else:
        yield "The preprocessing in use fits best." if best == "as used" else f"Fits best: {best}."
