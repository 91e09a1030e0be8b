"""The checks of what a plugin opens: the model and the data of its example files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.conformance.subject import Breach
from auditor.errors import NotApplicable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Source
    from auditor.model.artefact import Artefact
    from auditor.model.deployed import DeployedModel

_N = 5
"""Images that a model is queried with."""


def classifier_of(path: Path, artefact: Artefact) -> DeployedModel:
    """Make the classifier of an opened model file. Raises BadInput if it is none, Breach if a field is unusable."""
    from auditor.model.artefact import Artefact
    from auditor.model.loading import build, read_sidecar

    if not isinstance(artefact, Artefact):
        raise Breach(f"auditor_open_model returned {type(artefact).__name__}; expected auditor.Artefact or None")
    if not artefact.runtime:
        raise Breach("runtime is empty; name what runs the deployed model, with its version")
    if artefact.copy is None and not artefact.copy_reason:
        raise Breach("copy is None and copy_reason is empty; say why there is no differentiable copy")
    return build(path, artefact, read_sidecar(path, artefact.metadata, properties=artefact.properties))


def _inputs(classifier: DeployedModel) -> NDArray[np.float32]:
    import numpy as np

    return np.random.default_rng(0).random((_N, *classifier.shape), dtype=np.float32)


def check_same_scores(path: Path, artefact: Artefact) -> None:
    """Check that an image gets the same scores when the query is repeated and in any batch, and is not changed."""
    import numpy as np

    classifier = classifier_of(path, artefact)
    inputs = classifier.preprocessing.apply(_inputs(classifier))
    before = inputs.copy()
    whole = np.asarray(artefact.scores(inputs))
    if whole.shape[0] != _N or whole.ndim != 2:
        raise Breach(f"scores has shape {list(whole.shape)} for {_N} inputs; expected [{_N}, classes]")
    if not np.array_equal(inputs, before):
        raise Breach("scores changed its input; work on a copy")
    if not np.array_equal(whole, artefact.scores(inputs)):
        raise Breach("the same query gives other scores when it is repeated")
    if classifier.fixed_batch is None:
        pieces = np.concatenate([artefact.scores(part) for part in (inputs[:1], inputs[1:3], inputs[3:])])
        if not np.allclose(whole, pieces, rtol=1e-4, atol=2e-5):
            raise Breach(f"in batches of 1, 2 and {_N - 3}, scores differ by {np.abs(whole - pieces).max():.3g}")


def check_copy(path: Path, artefact: Artefact) -> None:
    """Check that the differentiable copy computes what the deployed model does."""
    if artefact.copy is None:
        raise NotApplicable(f"no differentiable copy: {artefact.copy_reason}")
    classifier = classifier_of(path, artefact)
    difference, agrees = classifier.compare(_inputs(classifier))
    if not agrees.all():
        raise Breach(f"the copy predicts another label for {int((~agrees).sum())} of {_N} random inputs")
    if difference.max() > 1e-3:
        raise Breach(f"the copy differs from the deployed model by up to {difference.max():.3g}; expected 1e-3 or less")


def check_source(path: Path, source: Source) -> None:
    """Check that ids are unique texts and that there is one label, unit and value of each group per image."""
    from auditor.data.dataset import Source

    del path
    if not isinstance(source, Source):
        raise Breach(f"auditor_open_images returned {type(source).__name__}; expected auditor.Source or None")
    n = len(source.ids)
    if not n or len(set(source.ids)) < n:
        raise Breach(f"{n} ids, {len(set(source.ids))} of them different; expected unique names of at least one image")
    columns: dict[str, Any] = {"ids": source.ids, "labels": source.labels, "units": source.units, **source.groups}
    for name, values in columns.items():
        if values is None:
            continue
        if len(values) != n:
            raise Breach(f"{name} has {len(values)} values for {n} images; expected one per image")
        strange = [value for value in values if not isinstance(value, str)]
        if strange:
            raise Breach(f"{name} contains {strange[0]!r} ({type(strange[0]).__name__}); expected text")


def check_pictures(path: Path, source: Source) -> None:
    """Check that pictures are read alike each time, and that the run can use them."""
    import numpy as np

    from auditor.data.dataset import Images

    del path
    if source.columns is not None:
        raise NotApplicable("a table without pictures")
    for index in range(min(len(source.ids), _N)):
        (raw, picture), (again, same) = source.read(index), source.read(index)
        if not isinstance(raw, bytes):
            raise Breach(f"read returned {type(raw).__name__} as the bytes to hash; expected bytes")
        if raw != again or not np.array_equal(np.asarray(picture), np.asarray(same)):
            raise Breach(f"reading {source.ids[index]} twice gives different bytes or pixels")
    images = Images(source, shape=(3, 16, 16), samples=_N)
    if images.unreadable:
        raise Breach(f"{len(images.unreadable)} of {min(len(source.ids), _N)} pictures cannot be read")
    pixels = images.pixels(images.ids)
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise Breach(f"pixels go from {pixels.min():g} to {pixels.max():g}; expected uint8, or float in [0, 1]")
