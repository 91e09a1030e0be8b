"""From what a format plugin found and what the sidecar says to a DeployedModel that has answered a first image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from auditor.data.resizing import Resizing
from auditor.errors import BadInput, first_line
from auditor.files import file_sha256
from auditor.model.artefact import Artefact
from auditor.model.deployed import DeployedModel
from auditor.model.loading.sidecar import Sidecar, sidecar_path
from auditor.model.preprocessing import Preprocessing
from auditor.model.scores import class_scores, look_at_outputs
from auditor.model.tabular import RowPreprocessing, unknown

_USUAL_SIZES = (224, 32, 28, 64, 128, 96, 256, 299, 384, 48, 8)
"""Sides to try where neither file, sidecar nor data say one; ImageNet's first."""

_FREE = 3
"""A batch that nobody fixes, so that a model which takes it takes any."""


def build(
    path: Path,
    artefact: Artefact,
    sidecar: Sidecar,
    *,
    device: str = "cpu",
    data_size: tuple[int, int] | None = None,
    rows: RowPreprocessing | None = None,
) -> DeployedModel:
    """The classifier in ``artefact``; ``data_size`` is the images' own (height, width), used where nothing else says
    one; ``rows`` is the preprocessing of a table, for a model of features.

    Raises BadInput when it is no classifier of images.
    """
    warnings: list[str] = []
    if not np.issubdtype(np.dtype(artefact.input_dtype), np.number):
        raise BadInput(f"{path}: the model's input holds {artefact.input_dtype}; expected numbers")
    if rows is None and len(artefact.input_shape) == 2 and artefact.input_shape[1]:
        rows = unknown(artefact.input_shape[1], artefact.input_dtype)
    candidates: Sequence[tuple[Preprocessing, str]] = [(rows, "")] if rows is not None else []
    candidates = candidates or _candidates(path, artefact, sidecar, data_size)
    preprocessing, outputs, fixed = _first_answer(path, artefact, candidates, warnings)
    single = outputs.shape[1] == 1
    kind = sidecar.kind or artefact.outputs or look_at_outputs(outputs)
    if single:
        what = "probability" if kind == "probabilities" else "logit"
        warnings.append(f"The model has one output; it is read as the {what} of the second of two classes.")
    elif artefact.activation == "sigmoid" and kind == "probabilities":
        warnings.append(
            "The model ends in a sigmoid per class; its scores are divided by their sum, which changes confidences and"
            " no label."
        )
    n_classes = max(2, outputs.shape[1])
    classes, classes_source = _class_names(path, artefact, sidecar, n_classes, warnings)
    source = sidecar.where("mean") if sidecar.mean or sidecar.range or sidecar.std else ""
    if rows is not None:
        source = "the table: every feature from its smallest to its largest value"
    elif not source and not preprocessing.dtype.startswith("float"):
        source = "the type of the input, which holds 8-bit values"
    if not source:
        source = "a guess: nothing states it"
        warnings.append(
            "No preprocessing is stated, so the model gets pixels from 0 to 1 as they are. A wrong normalisation is the"
            f" commonest reason for a wrong audit: state it in {sidecar_path(path).name} under [input], or with"
            " --preset or --mean and --std; `auditor inspect MODEL --data DATA` tries the usual ones."
        )
    if sidecar.order and sidecar.where("order") != source:
        source += f"; order of channels from {sidecar.where('order')}"
    return DeployedModel(
        artefact,
        preprocessing,
        path=str(path),
        sha256=file_sha256(path),
        n_classes=n_classes,
        outputs=kind,
        single=single,
        classes=classes,
        device=device,
        fixed_batch=fixed,
        preprocessing_source=source,
        classes_source=classes_source,
        warnings=warnings,
    )


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
        return None, ""
    if len(sidecar.classes) == n_classes:
        return sidecar.classes, origin
    stated = f"{origin}: names {len(sidecar.classes)} classes, but the model {path.name} has {n_classes} outputs"
    if not nearby:
        raise BadInput(f"{stated}; state as many names as outputs, in their order")
    warnings.append(f"{stated}, so its class names were ignored; state the names with --classes.")
    return None, ""


def resizing(sidecar: Sidecar, shape: tuple[int, int, int]) -> Resizing:
    """How pictures come to the model's size, ``shape`` (channels, height, width). Raises BadInput for a crop that is
    larger than the picture that it is cut from."""
    crop = 1.0 if sidecar.crop is None else float(sidecar.crop)
    if 1 < crop < max(shape[1:]):
        raise BadInput(
            f"{sidecar.where('crop')}: crop is {sidecar.crop}, so the shorter side is scaled to {crop:g} pixels, but"
            f" the model takes {shape[1]} x {shape[2]}; expected at least {max(shape[1:])}, or a share of at most 1"
        )
    return Resizing(resize=sidecar.resize or "crop", crop=crop, interpolation=sidecar.interpolation or "bilinear")


def _first_answer(
    path: Path,
    artefact: Artefact,
    candidates: Sequence[tuple[Preprocessing, str]],
    warnings: list[str],
) -> tuple[Preprocessing, np.ndarray[tuple[int, int], np.dtype[np.float32]], int | None]:
    """Preprocessing, scores of some test images, and the batch size if the model takes only one."""
    problem = ""
    refusal: BadInput | None = None
    for preprocessing, guess in candidates:
        for batch in _batches(artefact):
            ramp = np.linspace(0, 1, batch * int(np.prod(preprocessing.shape)), dtype=np.float32)
            images = ramp.reshape(batch, *preprocessing.shape)
            try:
                scores = class_scores(artefact.scores(preprocessing.apply(images)), batch)
            except (RuntimeError, ValueError, TypeError) as error:
                problem = _reason(error)
                continue
            except BadInput as error:
                # a batch that is fixed in silence shows in the shape of the answer; another one may fit
                refusal = refusal or error
                continue
            if guess:
                warnings.append(
                    f"The file does not say the image size; {guess} was taken. State it with --input-size, or in"
                    f" {sidecar_path(path).name}: [input] size = [height, width], channels = 1 or 3."
                )
            return preprocessing, scores, _declared_batch(artefact) or (None if batch == _FREE else batch)
    if refusal is not None:
        raise BadInput(f"{path}: {refusal}")
    if candidates[0][0].layout == "rows":
        raise BadInput(f"{path}: the model does not take a row of {candidates[0][0].shape[2]} features ({problem})")
    raise BadInput(
        f"{path}: the model takes no image of any size tried ({problem}); state it with --input-size, or as"
        f" [input] size and channels in {sidecar_path(path).name}"
    )


def _batches(artefact: Artefact) -> Sequence[int]:
    """Three images show that the batch may vary; some exporters fix it without saying so."""
    declared = _declared_batch(artefact)
    return (declared,) if declared else (_FREE, 1, *artefact.example_shape[:1])


def _declared_batch(artefact: Artefact) -> int | None:
    return artefact.input_shape[0] if artefact.input_shape else None


def _candidates(
    path: Path, artefact: Artefact, sidecar: Sidecar, data_size: tuple[int, int] | None
) -> list[tuple[Preprocessing, str]]:
    """Possible preprocessings, best first, each with what had to be guessed for it."""
    declared = artefact.input_shape
    if declared and len(declared) != 4:
        raise BadInput(
            f"{path}: the model's input has shape {_shape_text(declared)}; expected an image,"
            " [batch, channels, height, width] or [batch, height, width, channels], or a row of features"
        )
    # a file that was traced takes what it was traced with, if nothing else is said
    example = artefact.example_shape if len(artefact.example_shape) == 4 else ()
    layout: Literal["nchw", "nhwc"] = sidecar.layout or _layout(declared or example)
    spatial = declared[2:4] if layout == "nchw" else declared[1:3]
    channel = (declared[1] if layout == "nchw" else declared[3]) if declared else None
    drawn = example[1 if layout == "nchw" else 3] if example else None
    channel = channel or sidecar.channels or (drawn if drawn in {1, 3} else None)
    if channel is not None and channel not in {1, 3}:
        raise BadInput(
            f"{path}: the model's input has shape {_shape_text(declared)}, so {channel} channels; expected 1 or 3"
        )
    height, width = (spatial[0], spatial[1]) if spatial else (None, None)
    _check_agrees(path, sidecar, height, width, channel)
    if height and width:
        sizes: list[tuple[int, int]] = [(height, width)]
    elif sidecar.size:
        sizes = [sidecar.size]
    elif example:
        sizes = [(example[2], example[3]) if layout == "nchw" else (example[1], example[2])]
    else:
        sizes = ([data_size] if data_size else []) + [(side, side) for side in _USUAL_SIZES]
    known = bool(sidecar.size or example or (height and width)) and bool(channel)
    found = []
    for size in sizes:
        for channels in [channel] if channel else [3, 1]:
            guess = "" if known else f"{size[0]}x{size[1]} pixels, {channels} channel{'s' if channels > 1 else ''}"
            found.append((_preprocessing(artefact, sidecar, (channels, *size), layout), guess))
    return found


def _preprocessing(
    artefact: Artefact, sidecar: Sidecar, shape: tuple[int, int, int], layout: Literal["nchw", "nhwc"]
) -> Preprocessing:
    for key in ("mean", "std"):
        values = getattr(sidecar, key)
        if values is not None and len(values) not in {1, shape[0]}:
            raise BadInput(f"{sidecar.where(key)}: {key} has {len(values)} values for {shape[0]} channels")
    # an integer input can only hold the 8-bit value itself; int8 files store it less 128
    usual = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0)}.get(artefact.input_dtype, (0.0, 1.0))
    return Preprocessing(
        shape=shape,
        layout=layout,
        dtype=artefact.input_dtype,
        range=sidecar.range or usual,
        mean=sidecar.mean or (0.0,),
        std=sidecar.std or (1.0,),
        order=sidecar.order or "rgb",
    )


def _check_agrees(path: Path, sidecar: Sidecar, height: int | None, width: int | None, channels: int | None) -> None:
    if sidecar.size and height and width and sidecar.size != (height, width):
        raise BadInput(
            f"{sidecar.where('size')}: size is {list(sidecar.size)}, but {path.name} takes [{height}, {width}]"
        )
    if sidecar.channels and channels and sidecar.channels != channels:
        raise BadInput(f"{sidecar.where('channels')}: channels is {sidecar.channels}, but {path.name} takes {channels}")


def _reason(error: BaseException) -> str:
    """What went wrong, in one line; TorchScript says it in its last one."""
    first = first_line(error)
    return str(error).strip().splitlines()[-1] if "TorchScript interpreter" in first else first


def _layout(declared: tuple[int | None, ...]) -> Literal["nchw", "nhwc"]:
    return "nhwc" if declared and declared[3] in {1, 3} and declared[1] not in {1, 3} else "nchw"


def _shape_text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if side is None else str(side) for side in shape) + "]"
