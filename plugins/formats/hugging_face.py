"""Data sets as the Hugging Face Hub stores them: Parquet files with image bytes, and folders with ``metadata.jsonl``.

Parquet: a column of images is a structure of ``bytes`` and ``path``; the metadata of the file has the names of the
classes. A folder of such files is named ``<split>-00000-of-00002.parquet``. ImageFolder: ``metadata.jsonl`` or
``metadata.csv`` names the images in ``file_name`` (huggingface.co/docs/datasets/image_dataset).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from auditor import BadInput, hookimpl
from auditor.files import parse_json
from auditor.plugins.formats._folder_parts import best_part, is_part
from auditor.plugins.formats._hub_table import open_table

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Source

_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.parquet")
_METADATA = ("metadata.jsonl", "metadata.csv")


# these folders and files hold what the plugins for folders and tables would read as something else
@hookimpl(tryfirst=True)
def auditor_open_images(path: Path) -> Source | None:
    """Open Parquet files with image bytes, folders of them, and ImageFolder metadata."""
    if path.is_dir():
        return _metadata_of(path) or _shards_of(path)
    if path.suffix.lower() == ".jsonl" or (path.name in _METADATA and _names_files(path)):
        return _image_folder(path)
    return open_table(path, [path]) if path.suffix.lower() == ".parquet" else None


def _metadata_of(folder: Path) -> Source | None:
    """Open a folder with a metadata file, or the part to audit of a folder of these; None if there is none."""
    if (file := _metadata_file(folder)) is not None:
        return _image_folder(file)
    parts = {inner.name: inner for inner in sorted(folder.iterdir()) if is_part(inner.name) and _metadata_file(inner)}
    if not parts:
        return None
    file = _metadata_file(parts[best_part(folder, parts)])
    assert file is not None
    return _image_folder(file, _part_warning(file.parent.name, parts))


def _metadata_file(folder: Path) -> Path | None:
    """Return the metadata file of a folder; None without one. Raises BadInput for two."""
    found = [folder / name for name in _METADATA if (folder / name).is_file() and _names_files(folder / name)]
    if len(found) > 1:
        raise BadInput(f"{folder}: contains {' and '.join(_METADATA)}; expected one of them")
    return found[0] if found else None


def _names_files(path: Path) -> bool:
    """Whether a file is the metadata of an ImageFolder; a table called metadata.csv may be anything."""
    if path.suffix == ".jsonl":
        return True
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return "file_name" in file.readline()


def _image_folder(path: Path, warnings: tuple[str, ...] = ()) -> Source:
    """Open the images that a metadata file names; images that it does not name are skipped by name."""
    from dataclasses import replace

    from auditor.plugins.formats._folder_scan import scan
    from auditor.plugins.formats.manifest import image_source, read_csv

    table = read_csv(path) if path.suffix == ".csv" else _json_lines(path)
    if "file_name" not in table.columns:
        columns = ", ".join(str(name) for name in table.columns)
        raise BadInput(f"{path}: has the columns {columns or 'none'}; expected a column file_name")
    if "image" in table.columns:
        raise BadInput(f"{path}: has the columns file_name and image; expected file_name, relative to the folder")
    nested = [str(name) for name in table.columns if table[name].map(_is_nested).any()]
    if "label" in nested:
        raise BadInput(f"{path}: label holds lists; expected one class per image (multi-label data cannot be audited)")
    source = image_source(path, table.drop(columns=nested).rename(columns={"file_name": "image"}))
    skipped: dict[str, list[str]] = defaultdict(list)
    listed = {(path.parent / str(name)).resolve() for name in table["file_name"]}
    everything = scan(path.parent, skipped).everything
    unnamed = [file.relative_to(path.parent).as_posix() for file in everything if Path(file).resolve() not in listed]
    unread = [f"Columns of {path.name} that hold lists were not read: {', '.join(nested)}."] if nested else []
    return replace(source, skipped={f"not named in {path.name}": unnamed}, warnings=[*warnings, *unread])


def _is_nested(value: object) -> bool:
    return isinstance(value, list | dict)


def _json_lines(path: Path) -> pd.DataFrame:
    """Read a JSON object per line. Raises BadInput for other content."""
    import pandas as pd

    rows = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        # pandas writes a missing number as NaN
        row = parse_json(line, f"{path}: line {number}", allow_nan=True)
        if not isinstance(row, dict):
            raise BadInput(f'{path}: line {number} is no object; expected one such as {{"file_name": "0.png"}}')
        rows.append(row)
    # object columns keep whole numbers whole where a value is missing
    return pd.DataFrame(rows, dtype=object)


def _shards_of(folder: Path) -> Source | None:
    """Open the Parquet files of the split to audit, in the folder or its sub-folder data; None without any."""
    for place in (folder, folder / "data"):
        splits: dict[str, list[Path]] = defaultdict(list)
        for file in sorted(place.glob("*.parquet")):
            if match := _SHARD.fullmatch(file.name):
                splits[match[1]].append(file)
        if splits:
            split = best_part(place, {name: files[0] for name, files in splits.items()})
            source = open_table(place, splits[split], _part_warning(split, splits))
            if source is None:
                raise BadInput(f"{place}: its Parquet files have no column of images; expected image bytes")
            return source
    return None


def _part_warning(part: str, parts: Iterable[str]) -> tuple[str, ...]:
    """State which part was audited, as an assumption, if there are others."""
    others = [name for name in parts if name != part]
    if not others:
        return ()
    return (
        f"The data has parts, and the part {part} was audited, not {', '.join(others)}. This is an assumption from the"
        " names; to audit other images, pass their file or folder with --data.",
    )
