"""Read what other tools store about a model: Hugging Face, timm, and the image metadata of the ONNX specification.

Each function returns the tables of a sidecar, ``{"input": {...}, "output": {...}}``, without what is not stated.
"""

from __future__ import annotations

import ast
import codecs
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auditor.errors import BadInput

Tables = dict[str, dict[str, Any]]

NAME_KEYS = ("names", "classes", "class_names", "labels", "id2label")
"""Keys of metadata under which tools store class names."""

SETTINGS_FILES = ("preprocessor_config.json", "config.json")
"""Files next to a model, or one folder above, with its preprocessing."""

NAME_FILES = ("labels.txt", "classes.txt")
"""Files next to a model with one class name per line."""

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""The filters by PIL's numbers."""


def nearby_files(model: Path) -> list[Path]:
    """Return the paths of all files next to a model that may describe it, whether or not they exist, best first."""
    here, above = model.parent, model.absolute().parent.parent
    settings = [folder / name for folder in (here, above) for name in SETTINGS_FILES]
    return [*settings, *(here / name for name in NAME_FILES)]


def metadata_files(model: Path) -> list[tuple[str, Tables]]:
    """Read the configuration files and lists of class names near the model; return path and tables, best source first.

    ``preprocessor_config.json`` and ``config.json`` are read in the folder of the model and in the one above (Hugging
    Face stores ``onnx/model.onnx``), ``labels.txt`` and ``classes.txt`` in the folder of the model.

    Raises:
        BadInput: for an unreadable ``preprocessor_config.json``. A ``config.json`` may belong to another program.
    """
    found: list[tuple[str, Tables]] = []
    for path in nearby_files(model):
        name = path.name
        if name in NAME_FILES:
            if classes := class_lines(path):
                found.append((str(path), {"output": {"classes": classes}}))
            continue
        if not path.is_file():
            continue
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("not an object")
            found.append((str(path), hugging_face(content) if name.startswith("pre") else timm(content)))
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            if name.startswith("pre"):
                raise BadInput(
                    f"{path}: not readable as Hugging Face preprocessing ({type(error).__name__}: {error}); fix it,"
                    " or remove it and state the preprocessing in the sidecar"
                ) from None
    return [(path, tables) for path, tables in found if tables]


def class_file(path: Path) -> list[str]:
    """Read class names from a text file, or from JSON: a list, a map, or either under one of ``NAME_KEYS``."""
    if path.suffix.lower() != ".json":
        return class_lines(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    keys = [key for key in NAME_KEYS if isinstance(content, dict) and key in content]
    return _listed_names(content[keys[0]] if keys else content)


def class_lines(path: Path) -> list[str]:
    """Read class names from a text file, one per line, with or without their index in front; empty if it is none."""
    try:
        raw = path.read_bytes()
        # Windows PowerShell writes UTF-16
        encoding = "utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        lines = [line.strip() for line in raw.decode(encoding).splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        return []
    numbered = [re.fullmatch(r"(\d+)\s*[:,;\t ]\s*(.+)", line) for line in lines]
    if lines and all(match is not None and int(match[1]) == i for i, match in enumerate(numbered)):
        lines = [match[2] for match in numbered if match is not None]
    return unique_names(lines) if len(lines) > 1 else []


def unusable_names(model: Path) -> list[str]:
    """Say which files next to the model seem to name its classes but cannot be used, and why."""
    found = []
    for path in (model.parent / name for name in NAME_FILES):
        if path.is_file() and not class_lines(path):
            found.append(f"{path}: expected text with one class name per line, at least two")
    config = model.parent / "config.json"
    if config.is_file():
        try:
            content = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            found.append(f"{config}: not readable as JSON ({error})")
        else:
            stated = content.get("id2label") if isinstance(content, dict) else None
            if stated and not _listed_names(stated) and not _are_placeholders(stated):
                found.append(f"{config}: expected id2label to name the classes 0, 1, 2, ...")
    return found


def unique_names(names: list[str]) -> list[str]:
    """Make class names unique: ImageNet has two classes "crane", so the second becomes "crane (517)"."""
    count = Counter(names)
    first: set[str] = set()
    found = []
    for i, name in enumerate(names):
        found.append(f"{name} ({i})" if count[name] > 1 and name in first else name)
        first.add(name)
    return found


def class_names(properties: Mapping[str, str]) -> Tables:
    """Read class names from the metadata of a model file: a list or a map from index to name.

    The value is JSON, or a Python literal as Ultralytics writes it: ``{0: 'cat', 1: 'dog'}``.
    """
    for key in NAME_KEYS:
        names = _listed_names(_literal(properties.get(key, "")))
        if names:
            return {"output": {"classes": names}}
    return {}


def _literal(text: str) -> Any:
    """Parse JSON or a Python literal; None for anything else."""
    for parse in (json.loads, ast.literal_eval):
        try:
            return parse(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
    return None


def _listed_names(value: Any) -> list[str]:
    """Class names from a list or a map from index to name; empty if the value is neither or holds placeholders."""
    if isinstance(value, dict):
        try:
            ordered = sorted((int(key), str(name)) for key, name in value.items())
        except (TypeError, ValueError):
            return []
        if [key for key, _ in ordered] != list(range(len(ordered))):
            return []
        value = [name for _, name in ordered]
    if not isinstance(value, list | tuple) or len(value) < 2 or not all(isinstance(v, str | int) for v in value):
        return []
    names = [str(name) for name in value]
    if not all(name.strip() for name in names):
        return []
    return [] if _are_placeholders(dict(enumerate(names))) else unique_names(names)


def _are_placeholders(names: Any) -> bool:
    """Whether a map from index to name only repeats the index: LABEL_0, LABEL_1, or 0, 1."""
    return isinstance(names, dict) and all(str(name) in {f"LABEL_{i}", str(i)} for i, name in names.items())


def hugging_face(content: Mapping[str, Any]) -> Tables:
    """Read ``preprocessor_config.json`` of an image processor (transformers, BaseImageProcessor)."""
    overrides: dict[str, Any] = {}
    rescale = content.get("do_rescale", True)
    factor = float(content.get("rescale_factor", 1 / 255)) if rescale else 1.0
    low = -1.0 if rescale and (content.get("rescale_offset") or content.get("offset")) else 0.0
    # 1/255 is often rounded
    high = low + factor * 255
    overrides["range"] = [low, round(high) if abs(high - round(high)) < 1e-3 else high]
    if content.get("do_normalize", "image_mean" in content):
        overrides |= {key: _numbers(content[f"image_{key}"]) for key in ("mean", "std") if f"image_{key}" in content}
    if content.get("do_flip_channel_order"):
        overrides["order"] = "bgr"
    if content.get("do_resize", True):
        overrides |= _resizing(content)
    if isinstance(content.get("resample"), int):
        overrides["interpolation"] = _RESAMPLE[content["resample"]]
    return (
        {"input": overrides}
        if content.keys()
        & {"image_mean", "image_processor_type", "feature_extractor_type", "do_rescale", "do_normalize"}
        else {}
    )


def _resizing(content: Mapping[str, Any]) -> dict[str, Any]:
    size, cut = content.get("size"), content.get("crop_size")
    shortest = size.get("shortest_edge") if isinstance(size, dict) else None
    if content.get("do_center_crop") and cut is not None:
        edge = shortest or (size if isinstance(size, int) else None)
        return {"size": _sides(cut), "resize": "crop"} | ({"crop": edge} if edge else {})
    if isinstance(size, dict) and "height" in size:
        return {"size": _sides(size), "resize": "stretch"}
    if shortest and "crop_pct" in content and shortest >= 384:
        # the processor of ConvNeXt does not crop large inputs
        return {"size": [shortest, shortest], "resize": "stretch"}
    edge = shortest or (size if isinstance(size, int) else None)
    if edge is None:
        return {}
    crop = {"crop": float(content["crop_pct"])} if content.get("crop_pct") else {}
    # a single number without a crop meant both sides before "shortest_edge" existed
    return {"size": [edge, edge], "resize": "crop" if shortest else "stretch"} | (crop if shortest else {})


def timm(content: Mapping[str, Any]) -> Tables:
    """Read timm's ``config.json`` (with or without ``pretrained_cfg``), and the class names of Hugging Face's."""
    known = content.get("pretrained_cfg", content)
    tables: Tables = {}
    if isinstance(known, dict) and {"input_size", "mean", "std"} <= known.keys():
        channels, height, width = known["input_size"]
        overrides: dict[str, Any] = {"size": [height, width], "channels": channels, "range": [0, 1]}
        overrides |= {"mean": _numbers(known["mean"]), "std": _numbers(known["std"])}
        mode, kept = known.get("crop_mode", "center"), known.get("crop_pct")
        overrides |= {"resize": "stretch"} if mode == "squash" else {"resize": "crop", "crop": kept or 0.875}
        if known.get("interpolation") in _RESAMPLE:
            overrides["interpolation"] = known["interpolation"]
        tables["input"] = overrides
    names = _listed_names(content.get("label_names")) or _listed_names(content.get("id2label"))
    if names:
        tables["output"] = {"classes": names}
    return tables


def onnx_image(properties: Mapping[str, str]) -> Tables:
    """Read the standard image metadata of ONNX files (onnx, docs/MetadataProps.md): channel order and value range."""
    overrides: dict[str, Any] = {}
    # keys and values are case-insensitive
    known = {key.lower(): value.lower() for key, value in properties.items()}
    pixels = known.get("image.bitmappixelformat", "")
    if pixels.startswith(("bgr", "rgb")):
        overrides["order"] = pixels[:3]
    ranges = {
        "nominalrange_0_255": [0, 255],
        "normalized_0_1": [0, 1],
        "normalized_1_1": [-1, 1],
        "nominalrange_16_235": [16, 235],
    }
    if known.get("image.nominalpixelrange") in ranges:
        overrides["range"] = ranges[known["image.nominalpixelrange"]]
    return {"input": overrides} if overrides else {}


def _numbers(value: Any) -> list[float]:
    return [float(v) for v in (value if isinstance(value, list | tuple) else [value])]


def _sides(value: Any) -> list[int]:
    return [value["height"], value["width"]] if isinstance(value, dict) else [value, value]
