"""Parquet tables with image bytes, as the library ``datasets`` of Hugging Face writes them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput
from auditor.files import parse_json
from auditor.plugins.formats._labels import labelled

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL import Image

    from auditor.data.dataset import Source

_LABELS = ("label", "labels")


def open_table(path: Path, files: Sequence[Path], warnings: Sequence[str] = ()) -> Source | None:
    """Open Parquet files of one table; None if the table has no column of images.

    Raises:
        BadInput: if several columns could hold the images or the labels.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # pyarrow does not open paths that are not UTF-8
        schema = pq.read_schema(io.BytesIO(files[0].read_bytes()))
        columns = [field.name for field in schema if _holds_images(field.type)]
        if not columns:
            return None
        table = pa.concat_tables(pq.read_table(io.BytesIO(file.read_bytes())) for file in files)
    except (OSError, pa.ArrowException):
        # the plugin for tables says what is wrong
        return None
    if len(columns) > 1:
        raise BadInput(f"{path}: has the image columns {', '.join(columns)}; expected one; drop the others")
    return _source(path, table, columns[0], warnings)


def _holds_images(kind: pa.DataType) -> bool:
    """Whether a type is that of an encoded image: a structure with the field ``bytes``, or plain bytes."""
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" and _is_bytes(field.type) for field in kind)
    return _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _source(path: Path, table: pa.Table, column: str, warnings: Sequence[str]) -> Source:
    from auditor.data.dataset import Source
    from auditor.plugins.formats.manifest import unique

    images = table[column].combine_chunks()
    structured = not _is_bytes(images.type)
    names = _names(images) if structured else [f"{i:06d}" for i in range(len(images))]
    classes = _class_labels(path, table.schema)
    label = _label_column(path, table.schema.names, classes)
    plain = [field.name for field in table.schema if field.name not in {column, label} and _is_plain(field.type)]
    unread = [name for name in table.schema.names if name not in {column, label, *plain}]
    texts = {name: _texts(table[name], classes.get(name)) for name in plain}

    def read(index: int) -> tuple[bytes, Image.Image]:
        from auditor.data.resizing import decode

        value = images[index].as_py()
        raw = value["bytes"] if structured and value else value
        if not isinstance(raw, bytes):
            raise OSError("has no bytes, only the path of a file")
        return decode(raw)

    return Source(
        path=str(path),
        ids=unique(names),
        labels=None if label is None else _labels(path, table[label], classes.get(label)),
        groups={name: values for name, values in texts.items() if name not in {"unit", "epsilon"}},
        units=texts.get("unit"),
        epsilons=texts.get("epsilon"),
        read=read,
        warnings=[
            *warnings,
            *([f"Columns that hold neither texts nor numbers were not read: {', '.join(unread)}."] if unread else []),
        ],
    )


def _names(images: pa.Array) -> list[str]:
    """Return the path of each image, or its number."""
    stated = [value.get("path") if value else None for value in images.to_pylist()]
    return [str(name) if name else f"{i:06d}" for i, name in enumerate(stated)]


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a column holds texts, numbers or truth values."""
    from pyarrow import types

    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_string, types.is_large_string)
    return any(test(kind) for test in tests)


def _class_labels(path: Path, schema: pa.Schema) -> dict[str, Sequence[str]]:
    """Return the names of the classes by column, from the metadata that ``datasets`` writes.

    Raises BadInput if they are not JSON.
    """
    stated = (schema.metadata or {}).get(b"huggingface")
    content: Any = parse_json(stated, f"{path}: its metadata huggingface", allow_nan=True) if stated else {}
    try:
        features: Any = content["info"]["features"] if content else {}
        return {
            name: list(feature["names"])
            for name, feature in features.items()
            if isinstance(feature, Mapping) and feature.get("_type") == "ClassLabel"
        }
    except (AttributeError, KeyError, TypeError):
        # metadata of other tools
        return {}


def _label_column(path: Path, columns: Sequence[str], classes: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column of the labels; None without one. Raises BadInput if several could be meant."""
    named = [name for name in _LABELS if name in columns]
    found = named or [name for name in classes if name in columns]
    if len(found) > 1:
        raise BadInput(f"{path}: has the label columns {', '.join(found)}; rename the one to audit to label")
    return found[0] if found else None


def _labels(path: Path, column: pa.ChunkedArray, names: Sequence[str] | None) -> list[str] | None:
    """Return the label of each image; None if none has one, which ``datasets`` writes as -1.

    Raises BadInput for lists of labels, and if only some images have a label.
    """
    if not _is_plain(column.type):
        raise BadInput(
            f"{path}: its labels have the type {column.type}; expected one class per image (multi-label data cannot be"
            " audited)"
        )
    texts = _texts(column, names)
    missing = [f"row {number}" for number, text in enumerate(texts, start=1) if not text]
    return texts if labelled(path, missing, len(texts), "rows") else None


def _texts(column: pa.ChunkedArray, names: Sequence[str] | None) -> list[str]:
    """Return the values as text, classes by their names, missing ones as empty text."""
    values = column.to_pylist()
    if names is not None and all(value is None or isinstance(value, int) for value in values):
        return [names[value] if value is not None and 0 <= value < len(names) else "" for value in values]
    return ["" if value is None else str(value) for value in values]
