"""Make a classifier from an opened model file and what is stated about it, and check that it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.resizing import Resizing
from auditor.errors import BadInput, first_line
from auditor.model.artefact import Artefact
from auditor.model.deployed import DeployedModel
from auditor.model.identity import model_digest, object_digest
from auditor.model.loading.input_shape import Candidate, candidates, is_integer, is_tabular
from auditor.model.loading.metadata import unusable_names
from auditor.model.loading.sidecar import Sidecar, sidecar_path
from auditor.model.preprocessing import InputTransform, Preprocessing
from auditor.model.scores import Outputs, class_scores, look_at_outputs, looks_like_sigmoids
from auditor.model.tabular import TabularPreprocessing, unknown
from auditor.printable import printable_text

_FREE = 3
"""A batch size that no export fixes, so that a model that accepts it accepts any."""


class _Answer(NamedTuple):
    """The first answer of the model."""

    preprocessing: InputTransform
    scores: NDArray[np.float32]
    fixed_batch: int | None


def build(
    path: Path,
    artefact: Artefact,
    sidecar: Sidecar,
    *,
    device: str = "cpu",
    data_size: tuple[int, int] | None = None,
    rows: TabularPreprocessing | None = None,
) -> DeployedModel:
    """Make the classifier of ``artefact``.

    Args:
        path: the model file.
        artefact: what the format plugin found in it.
        sidecar: what is stated about it.
        device: where to run it.
        data_size: (height, width) of the data, used if nothing else states a size.
        rows: the preprocessing of a table, for a tabular model.

    Raises:
        BadInput: if it is not a classifier of images or features.
    """
    if not np.issubdtype(np.dtype(artefact.input_dtype), np.number):
        raise BadInput(f"{path}: the model's input contains {artefact.input_dtype}; expected numbers")
    warnings: list[str] = []
    tabular = is_tabular(artefact, sidecar, data_size)
    if rows is None and tabular and artefact.input_shape[1]:
        rows = unknown(artefact.input_shape[1], artefact.input_dtype)
    tried = [Candidate(preprocessing=rows)] if rows else candidates(path, artefact, sidecar, data_size)
    answer = _first_answer(path, artefact, tried, warnings)
    single = answer.scores.shape[1] == 1
    kind = sidecar.kind or artefact.outputs or look_at_outputs(answer.scores)
    # the operators of an ONNX file show whether it ends in sigmoids; of other models only the values do
    by_values = artefact.format != "onnx" and looks_like_sigmoids(answer.scores)
    if not single and (artefact.activation == "sigmoid" or by_values):
        if sidecar.kind is None:
            raise BadInput(_multi_label(path, artefact, answer.scores))
        artefact = replace(artefact, activation="sigmoid")
    warnings += _output_warnings(artefact, kind, single=single)
    n_classes = max(2, answer.scores.shape[1])
    classes, classes_source = _class_names(path, artefact, sidecar, n_classes, warnings)
    identity = artefact.identity
    return DeployedModel(
        artefact,
        answer.preprocessing,
        path=printable_text(str(path)),
        sha256=object_digest(identity, answer.scores) if identity else model_digest(path, artefact.files),
        n_classes=n_classes,
        outputs=kind,
        single=single,
        classes=classes,
        device=device,
        fixed_batch=answer.fixed_batch,
        preprocessing_source=_preprocessing_source(path, artefact, sidecar, answer.preprocessing, warnings),
        classes_source=classes_source,
        warnings=warnings,
        review=sidecar.review,
    )


def _multi_label(path: Path, artefact: Artefact, scores: NDArray[np.float32]) -> str:
    """Say that a model with one sigmoid per class may find several classes in an image, and what to do."""
    sums = scores.astype(np.float64).sum(axis=1)
    found = "the model ends in" if artefact.activation == "sigmoid" else "the scores are from 0 to 1, as those of"
    return (
        f"{path}: {found} one sigmoid per class, and the {scores.shape[1]} scores of a test image sum to"
        f" {sums.min():.3g} to {sums.max():.3g}, not 1: a multi-label classifier cannot be audited, because each image"
        f" needs one class. If the largest score names the class, state {_place(path, artefact, 'output')}:"
        ' kind = "probabilities"; if the scores are logits, kind = "logits"'
    )


def _place(path: Path, artefact: Artefact, table: str, option: str = "") -> str:
    """Say where a table of the sidecar can be stated: next to the model file, by an option, for an object in Python."""
    if artefact.identity:
        return f"with overrides={{{table!r}: {{...}}}}"
    return f"in {sidecar_path(path).name} under [{table}]{option}"


def resizing(sidecar: Sidecar, shape: tuple[int, ...]) -> Resizing:
    """Return how pictures are brought to ``shape`` (channels, height, width).

    Raises:
        BadInput: for a crop that is larger than the picture it is taken from.
    """
    crop = 1.0 if sidecar.crop is None else float(sidecar.crop)
    if 1 < crop < max(shape[1:]):
        raise BadInput(
            f"{sidecar.where('crop')}: crop is {sidecar.crop}, so the shorter side is scaled to {crop:g} pixels, but"
            f" the model takes {shape[1]} x {shape[2]}; expected at least {max(shape[1:])}, or a fraction of at most 1"
        )
    return Resizing(
        resize=sidecar.resize or "crop",
        crop=crop,
        interpolation=sidecar.interpolation or "bilinear",
        white=sidecar.white,
    )


def _output_warnings(artefact: Artefact, kind: Outputs, *, single: bool) -> list[str]:
    """Warn about outputs whose reading is an assumption."""
    if single:
        what = "probability" if kind == "probabilities" else "logit"
        return [f"The model has one output; it is read as the {what} of the second of two classes."]
    if artefact.activation == "sigmoid" and kind == "probabilities":
        return [
            "The model ends in one sigmoid per class; its scores are divided by their sum, which changes confidences"
            " but no label."
        ]
    return []


def _preprocessing_source(
    path: Path, artefact: Artefact, sidecar: Sidecar, preprocessing: InputTransform, warnings: list[str]
) -> str:
    """Say where the preprocessing is stated; warn if it is a guess."""
    if not isinstance(preprocessing, Preprocessing):
        return "the table: every feature from its smallest to its largest value"
    source = sidecar.where("mean") if sidecar.mean or sidecar.range or sidecar.std else ""
    if not source and is_integer(preprocessing.dtype):
        low, high = preprocessing.range
        source = f"a guess from the input type {preprocessing.dtype}"
        warnings.append(
            f"The model takes {preprocessing.dtype} and no range is stated, so black is {low:g} and white {high:g}."
            " If that is wrong, every result is wrong: state range"
            f" {_place(path, artefact, 'input', ' or with --range')}."
        )
    elif not source:
        source = "a guess: nothing states it"
        warnings.append(
            "No preprocessing is stated, so the model receives pixels from 0 to 1. A wrong normalisation is the most"
            " common reason for a wrong audit: state it"
            f" {_place(path, artefact, 'input', ' or with --preset or --mean and --std')}; `sanity.preprocessing`"
            " and `auditor inspect MODEL --data DATA` try the common ones."
        )
    if sidecar.order and sidecar.where("order") != source:
        source += f"; channel order from {sidecar.where('order')}"
    return source


def _class_names(
    path: Path, artefact: Artefact, sidecar: Sidecar, n_classes: int, warnings: list[str]
) -> tuple[tuple[str, ...] | None, str]:
    """Return class names with their source, or None; names that a nearby file states for other classes are ignored.

    Raises:
        BadInput: if command line, sidecar or the model file state another number of names than the model has classes.
    """
    origin = sidecar.where("classes")
    nearby = sidecar.classes is not None and Path(origin).suffix in {".json", ".txt"}
    if artefact.classes and (sidecar.classes is None or nearby):
        return tuple(artefact.classes), f"{path} (operator attribute)"
    if sidecar.classes is None:
        warnings += [
            f"{unusable}, so no class names were read from it; fix it, or state the names with --classes."
            for unusable in unusable_names(path)
        ]
        return None, ""
    if len(sidecar.classes) == n_classes:
        return sidecar.classes, origin
    stated = f"{origin}: names {len(sidecar.classes)} classes, but the model {path.name} has {n_classes} outputs"
    if not nearby:
        raise BadInput(f"{stated}; state as many names as outputs, in their order")
    warnings.append(f"{stated}, so its class names were ignored; state the names with --classes.")
    return None, ""


def _first_answer(path: Path, artefact: Artefact, tried: Sequence[Candidate], warnings: list[str]) -> _Answer:
    """Evaluate the model on test images with each candidate until one is accepted."""
    problem = ""
    refusal: BadInput | None = None
    for candidate in tried:
        for batch in _batches(artefact):
            try:
                scores = _try(artefact, candidate.preprocessing, batch)
            except (RuntimeError, ValueError, TypeError) as error:
                problem = _reason(error)
                continue
            except BadInput as error:
                # an undeclared fixed batch shows in the shape of the output; another batch may be accepted
                refusal = refusal or error
                continue
            if candidate.guess:
                warnings.append(
                    f"The model does not state the image size; {candidate.guess} was assumed. State size = [height,"
                    f" width] and channels = 1 or 3 {_place(path, artefact, 'input', ' or with --input-size')}."
                )
            return _Answer(
                candidate.preprocessing, scores, _declared_batch(artefact) or (None if batch == _FREE else batch)
            )
    first = tried[0].preprocessing
    sizes = dict.fromkeys("x".join(map(str, c.preprocessing.shape[1:])) for c in tried)
    if refusal is not None and (len(sizes) == 1 or not problem):
        raise BadInput(f"{path}: {refusal}")
    if not isinstance(first, Preprocessing):
        raise BadInput(f"{path}: the model does not accept a row of {first.shape[0]} features ({problem})")
    raise BadInput(
        f"{path}: the model accepted none of the image sizes tried ({', '.join(sizes)}); the last error: {problem};"
        f" state size and channels {_place(path, artefact, 'input', ' or the size with --input-size HEIGHTxWIDTH')}"
    )


def _try(artefact: Artefact, preprocessing: InputTransform, batch: int) -> NDArray[np.float32]:
    """Scores of ``batch`` test images that rise from black to white."""
    ramp = np.linspace(0, 1, batch * int(np.prod(preprocessing.shape)), dtype=np.float32)
    images = ramp.reshape(batch, *preprocessing.shape)
    return class_scores(artefact.scores(preprocessing.apply(images)), batch)


def _batches(artefact: Artefact) -> Sequence[int]:
    """Batch sizes to try: three images show that the batch may vary; some exports fix it without declaring so."""
    declared = _declared_batch(artefact)
    return (declared,) if declared else (_FREE, 1, *artefact.example_shape[:1])


def _declared_batch(artefact: Artefact) -> int | None:
    return artefact.input_shape[0] if artefact.input_shape else None


def _reason(error: BaseException) -> str:
    """Return what went wrong in one line; TorchScript says it in the last line of its message."""
    first = first_line(error)
    return str(error).strip().splitlines()[-1] if "TorchScript interpreter" in first else first
