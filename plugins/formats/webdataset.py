"""WebDataset archives: ``.tar`` files in which the files of one sample follow each other and share their name.

A sample has an image (``000.jpg``), and optionally a label: a number or name in ``000.cls``, or ``label`` in
``000.json``, whose other plain values are groups (github.com/webdataset/webdataset).
"""

from __future__ import annotations

import tarfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput, hookimpl
from auditor.files import parse_json
from auditor.plugins.formats._labels import labelled

if TYPE_CHECKING:
    from PIL import Image

    from auditor.data.dataset import Source

_IMAGES = {"jpg", "jpeg", "png", "webp", "bmp", "gif", "ppm", "pgm", "tif", "tiff"}
_LONGEST = 1 << 20
"""Bytes of a label file; longer ones are no labels."""


@dataclass
class _Sample:
    image: tarfile.TarInfo | None = None
    label: str | None = None
    groups: dict[str, str] = field(default_factory=dict)


@hookimpl
def auditor_open_images(path: Path) -> Source | None:
    """Open files called ``*.tar``."""
    if path.name.lower().endswith((".tar.gz", ".tgz", ".tar.zst")):
        raise BadInput(f"{path}: a compressed archive, whose images can only be read in order; decompress it to .tar")
    return _open(path) if path.suffix.lower() == ".tar" else None


def _open(path: Path) -> Source:
    from auditor.data.dataset import Source

    skipped: dict[str, list[str]] = defaultdict(list)
    try:
        with tarfile.open(path, "r:") as archive:
            samples = _samples(path, archive, skipped)
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as a tar archive: {error}") from None
    complete = {key: sample for key, sample in samples.items() if sample.image is not None}
    skipped["sample without an image"] += [key for key in samples if key not in complete]
    if not complete:
        raise BadInput(f"{path}: found no images; expected files such as 000.jpg and 000.cls")
    ids, members = list(complete), [sample.image for sample in complete.values() if sample.image is not None]
    names = dict.fromkeys(name for sample in complete.values() for name in sample.groups)
    return Source(
        path=str(path),
        ids=ids,
        labels=_labels(path, complete),
        groups={name: [sample.groups.get(name, "") for sample in complete.values()] for name in names},
        read=lambda index: _read(path, members[index]),
        skipped=skipped,
    )


def _samples(path: Path, archive: tarfile.TarFile, skipped: dict[str, list[str]]) -> dict[str, _Sample]:
    """Return the samples by key: the name up to the first dot after the last slash."""
    samples: dict[str, _Sample] = defaultdict(_Sample)
    for member in archive:
        folder, _, name = member.name.rpartition("/")
        stem, _, ending = name.partition(".")
        if not member.isfile() or not stem or not ending:
            if not member.isdir():
                skipped["not a file of a sample"].append(member.name)
            continue
        key = f"{folder}/{stem}" if folder else stem
        sample, kind = samples[key], ending.lower()
        if kind in _IMAGES:
            if sample.image is not None:
                raise BadInput(
                    f"{path}: sample {key} has two images, {sample.image.name} and {member.name}; expected one"
                )
            sample.image = member
        elif kind in {"cls", "json"} and member.size <= _LONGEST:
            file = archive.extractfile(member)
            assert file is not None
            _describe(path, member.name, file.read(), sample)
        else:
            skipped["neither image, .cls nor .json"].append(member.name)
    return samples


def _describe(path: Path, name: str, content: bytes, sample: _Sample) -> None:
    """Add what a ``.cls`` or ``.json`` file says about its sample."""
    text = content.decode("utf-8").strip()
    if name.lower().endswith(".cls"):
        stated: str | None = text
    else:
        values = _plain_values(path, name, text)
        label = values.pop("label", None)
        stated = None if label is None else str(label)
        sample.groups |= {key: str(value) for key, value in values.items()}
    if sample.label is not None and stated not in {None, sample.label}:
        raise BadInput(f"{path}: {name} states the label {stated!r}, another file of the sample {sample.label!r}")
    sample.label = stated or sample.label


def _plain_values(path: Path, name: str, text: str) -> dict[str, Any]:
    """Return the numbers and texts of a JSON object."""
    # Python writes a missing number as NaN
    values = parse_json(text, f"{path}: {name}", allow_nan=True)
    if not isinstance(values, Mapping):
        raise BadInput(f'{path}: {name} holds a {type(values).__name__}; expected an object such as {{"label": 3}}')
    if isinstance(values.get("label"), list):
        raise BadInput(f"{path}: {name} has a list of labels; expected one class (multi-label data cannot be audited)")
    return {key: value for key, value in values.items() if isinstance(value, str | int | float)}


def _labels(path: Path, samples: Mapping[str, _Sample]) -> Sequence[str] | None:
    """Return the label of each sample; None if no sample has one. Raises BadInput if only some have."""
    missing = [key for key, sample in samples.items() if not sample.label]
    if not labelled(path, missing, len(samples), "samples"):
        return None
    return [str(sample.label) for sample in samples.values()]


def _read(path: Path, member: tarfile.TarInfo) -> tuple[bytes, Image.Image]:
    from auditor.data.resizing import decode

    with path.open("rb") as file:
        file.seek(member.offset_data)
        return decode(file.read(member.size))
