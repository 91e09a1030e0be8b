"""Tables of images: CSV or Parquet with the columns ``image`` and, if there are any, ``label`` and ``mask`` (a picture
of the image's size, white where the object is); the others are groups."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from auditor import BadInput, hookimpl

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from auditor.data.dataset import Source

_SUFFIXES = {".csv", ".parquet"}


@hookimpl
def auditor_open_images(path: Path) -> Source | None:
    """Open files called ``*.csv`` or ``*.parquet``."""
    return _open(path) if path.suffix.lower() in _SUFFIXES else None


def _open(path: Path) -> Source:
    from auditor.data.dataset import Source
    from auditor.data.resizing import read_file

    table = _read(path)
    if "image" not in table.columns:
        return _rows(path, table)
    if not len(table):
        raise BadInput(f"{path}: has no rows; expected one per image")
    nameless = table["image"].isna().to_numpy()
    if nameless.any():
        raise BadInput(
            f"{path}: {int(nameless.sum())} of {len(table)} rows name no image, the first is row"
            f" {int(nameless.argmax()) + 1}; give every row a path"
        )
    names = [str(name) for name in table["image"]]
    files = [path.parent / name for name in names]
    groups = {str(name): ["" if missing else str(v) for v, missing in zip(table[name], table[name].isna(), strict=True)]
              for name in table.columns if name not in {"image", "label", "mask"}}  # fmt: skip
    masks = [None if missing else path.parent / str(v) for v, missing in zip(table["mask"], table["mask"].isna(),
             strict=True)] if "mask" in table.columns else []  # fmt: skip

    def mask(index: int) -> tuple[bytes, Image.Image] | None:
        file = masks[index]
        try:
            return None if file is None else read_file(file)
        except OSError as error:
            raise OSError(f"its mask {file.name if file else ''}: {error.strerror or error}") from None

    return Source(path=str(path), ids=_unique(names), labels=_labels(path, table), groups=groups,
                  read=lambda index: read_file(files[index]), mask=mask if masks else None)  # fmt: skip


def _rows(path: Path, table: pd.DataFrame) -> Source:
    """A table without images: rows of features, if the model takes such."""
    from auditor.data.dataset import Source

    def read(index: int) -> tuple[bytes, Image.Image]:
        raise ValueError(f"row {index + 1} is no image")

    columns = {str(name): table[name].tolist() for name in table.columns}
    digits = len(str(len(table)))
    ids = [f"row {i + 1:0{digits}d}" for i in range(len(table))]
    return Source(path=str(path), ids=ids, read=read, columns=columns)


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        if path.suffix.lower() == ".parquet":
            return pd.read_parquet(path)
        # everything as text: a label 01 is not the number 1, and a class may be called None or NA
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, dtype=str, encoding="utf-8-sig", skipinitialspace=True, index_col=False,
                               keep_default_na=False, na_values=[""])  # fmt: skip
    except pd.errors.ParserWarning:
        raise BadInput(
            f"{path}: has rows with more cells than its header has columns; put cells with commas between quotes"
        ) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"{path}: not readable as a table: {str(error).splitlines()[0]}") from None


def _labels(path: Path, table: pd.DataFrame) -> list[str] | None:
    if "label" not in table.columns or table["label"].isna().all():
        return None
    missing = table["label"].isna()
    if missing.any():
        raise BadInput(
            f"{path}: {int(missing.sum())} of {len(table)} rows have no label, the first is"
            f" {table['image'][missing].iloc[0]}; label all images or none"
        )
    return [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in table["label"]]


def _unique(names: list[str]) -> list[str]:
    """Ids from names; a second row for the same file gets a number."""
    taken, seen, ids = set(names), Counter[str](), []
    for name in names:
        seen[name] += 1
        new = name
        while seen[name] > 1 and new in taken:
            new = f"{name}#{seen[name]}"
            seen[name] += new in taken
        taken.add(new)
        ids.append(new)
    return ids
