"""Tables as CSV or Parquet: image manifests, and tabular data.

A manifest has the column ``image`` and optionally ``label``, ``unit`` (its patient, person or video), ``mask`` (an
image of equal size, white for the object) and ``epsilon`` (its own L-infinity radius); other columns are groups. A
table without ``image`` is tabular data.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from auditor import BadInput, hookimpl
from auditor.plugins.formats._files import Files, LocalFiles, existing, files_of
from auditor.plugins.formats._labels import labelled

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from auditor.data.dataset import Source

SUFFIXES = {".csv", ".parquet"}
_NOT_GROUPS = {"image", "label", "mask", "unit", "epsilon"}


@hookimpl
def auditor_open_images(path: Path) -> Source | None:
    """Open files called ``*.csv`` or ``*.parquet``."""
    return _open(path) if path.suffix.lower() in SUFFIXES else None


def _open(path: Path) -> Source:
    table = read_table(path)
    return image_source(path, table) if "image" in table.columns else _tabular(path, table)


def image_source(path: Path, table: pd.DataFrame, folder: Files | None = None) -> Source:
    """Return the images that a table names in the column ``image``: URIs, or relative to the folder of ``path``.

    ``folder`` has the files of that folder if it is not on this machine.
    """
    from auditor.data.dataset import Source

    folder = folder or LocalFiles(path.parent)
    stated = _image_names(path, table)
    files = files_of(folder, stated)
    names = [existing(files, name) for name in stated]
    masks = _mask_names(folder, table)
    of_masks = files_of(folder, [name for name in masks if name is not None])

    def read_mask(index: int) -> tuple[bytes, Image.Image] | None:
        name = masks[index]
        try:
            return None if name is None else of_masks.read(name)
        except OSError as error:
            raise OSError(f"its mask {Path(name or '').name}: {error.strerror or error}") from None

    return Source(
        path=str(path),
        ids=unique(names),
        labels=_labels(path, table),
        groups={str(name): _texts(table[name]) for name in table.columns if name not in _NOT_GROUPS},
        units=_texts(table["unit"]) if "unit" in table else None,
        epsilons=_texts(table["epsilon"]) if "epsilon" in table else None,
        read=lambda index: files.read(names[index]),
        mask=read_mask if masks else None,
        stamp=lambda index: _stamp(files, names[index], of_masks, masks[index] if masks else None),
    )


def _stamp(files: Files, name: str, of_masks: Files, mask: str | None) -> str:
    """Return the stamp of an image and its mask; empty if one of them has none."""
    stamps = [files.stamp(name), *([] if mask is None else [of_masks.stamp(mask)])]
    return " ".join(stamps) if all(stamps) else ""


def _check_columns(path: Path, names: list[str]) -> None:
    """Raise BadInput for columns without a name, two with the same one, and almost the name of a special column."""
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise BadInput(f"{path}: has two columns called {twice[0]!r}; rename or remove one")
    for name in names:
        meant = name.strip().lower()
        if meant in _NOT_GROUPS and name != meant and "image" in {other.strip().lower() for other in names}:
            raise BadInput(f"{path}: has a column called {name!r}; expected {meant!r}, or another name for a group")
    if any(not name.strip() for name in names):
        raise BadInput(
            f"{path}: column {next(i for i, name in enumerate(names) if not name.strip()) + 1} of {len(names)} has no"
            " name (pandas writes its index like that); name or remove it"
        )


def _image_names(path: Path, table: pd.DataFrame) -> list[str]:
    """Return the column ``image``; raise BadInput if there are no rows or missing names."""
    if not len(table):
        raise BadInput(f"{path}: has no rows; expected one per image")
    missing = table["image"].isna().to_numpy()
    if missing.any():
        raise BadInput(
            f"{path}: {int(missing.sum())} of {len(table)} rows name no image, the first is row"
            f" {int(missing.argmax()) + 1}; give every row a path"
        )
    return [str(name) for name in table["image"]]


def _mask_names(folder: Files, table: pd.DataFrame) -> list[str | None]:
    """Return the mask of each image, None for images without one; empty without the column."""
    if "mask" not in table:
        return []
    missing = table["mask"].isna()
    return [
        None if absent else existing(folder, str(name)) for name, absent in zip(table["mask"], missing, strict=True)
    ]


def _texts(column: pd.Series) -> list[str]:
    """Return the values of a column as text, missing ones as empty text."""
    return ["" if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)]


def _tabular(path: Path, table: pd.DataFrame) -> Source:
    """Return a source of tabular data."""
    from auditor.data.dataset import Source

    def read(index: int) -> tuple[bytes, Image.Image]:
        raise ValueError(f"row {index + 1} is not an image")

    columns = {str(name): table[name].tolist() for name in table.columns}
    digits = len(str(len(table)))
    ids = [f"row {i + 1:0{digits}d}" for i in range(len(table))]
    return Source(path=str(path), ids=ids, read=read, columns=columns)


def read_table(path: Path) -> pd.DataFrame:
    """Read a table. Raises BadInput if it is none, or has columns without a name or with the name of another."""
    table = _read(path)
    _check_columns(path, [str(name) for name in table.columns])
    return table


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    try:
        # pyarrow does not open paths that are not UTF-8
        is_parquet = path.suffix.lower() == ".parquet"
        return pd.read_parquet(io.BytesIO(path.read_bytes())) if is_parquet else read_csv(path)
    except pd.errors.ParserWarning:
        raise BadInput(
            f"{path}: has rows with more cells than its header has columns; put cells with commas between quotes"
        ) from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"{path}: not readable as a table: {str(error).splitlines()[0]}") from None


def read_csv(path: Path) -> pd.DataFrame:
    """Read all cells as text: label 01 is not the number 1, and a class may be called None or NA."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        table = pd.read_csv(
            path,
            dtype=str,
            encoding="utf-8-sig",
            skipinitialspace=True,
            index_col=False,
            keep_default_na=False,
            na_values=[""],
        )
    # pandas renames columns with equal names, and names those without
    with path.open(newline="", encoding="utf-8-sig") as file:
        header = next((row for row in csv.reader(file, skipinitialspace=True) if row), [])
    _check_columns(path, header)
    return table


def _labels(path: Path, table: pd.DataFrame) -> list[str] | None:
    """Return the column ``label`` as text; None if it is missing or empty; raise BadInput if it is incomplete."""
    if "label" not in table.columns:
        return None
    missing = [str(name) for name in table["image"][table["label"].isna()]]
    if not labelled(path, missing, len(table), "rows"):
        return None
    return [str(int(v)) if isinstance(v, float) and v.is_integer() else str(v) for v in table["label"]]


def unique(names: list[str]) -> list[str]:
    """Return ids from names; further rows of the same file get a number."""
    taken, count, ids = set(names), Counter[str](), []
    for name in names:
        count[name] += 1
        new = name
        while count[name] > 1 and new in taken:
            new = f"{name}#{count[name]}"
            count[name] += new in taken
        taken.add(new)
        ids.append(new)
    return ids
