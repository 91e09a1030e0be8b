"""NumPy archives: ``images`` (n, h, w[, c]) or (n, c, h, w), also called ``x``, ``data`` or ``x_test``.

Optional: ``labels`` (``y``, ``y_test``), ``groups_<name>``, ``units`` (the patient, person or video of
each image), ``epsilons`` and ``ids``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput, hookimpl
from auditor.plugins.formats._npz_arrays import read_arrays
from auditor.plugins.formats._npz_names import Names, choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Source

_PER_IMAGE = {"ids", "units", "epsilons"}
"""Arrays with one value per image."""


@hookimpl
def auditor_open_images(path: Path) -> Source | None:
    """Open files called ``*.npz``."""
    return _open(path) if path.suffix.lower() == ".npz" else None


def _open(path: Path) -> Source:
    import numpy as np

    from auditor.data.dataset import Source
    from auditor.data.looks import file_stamp

    # before it is read: a change meanwhile gives it another stamp
    stamp = file_stamp(path)
    arrays = _read(path)
    names = choose(path, arrays)
    images = arrays[names.images]
    if images.ndim not in {3, 4}:
        raise BadInput(
            f"{path}: {names.images} has shape {list(images.shape)}; expected [n, height, width] with or without"
            " channels"
        )
    _check(path, names.images, images)
    n = len(images)
    labels = None if names.labels is None else _labels(path, names.labels, arrays[names.labels], n)
    for name, array in arrays.items():
        if (name in _PER_IMAGE or name.startswith("groups_")) and array.shape != (n,):
            raise BadInput(f"{path}: {name} has shape {list(array.shape)}; expected [{n}], one per image")
    known = {names.images, names.labels, *names.others, *_PER_IMAGE}
    foreign = [name for name in arrays if name not in known and not name.startswith("groups_")]
    if foreign:
        raise BadInput(
            f"{path}: contains {', '.join(sorted(foreign))}, which nothing reads; expected images, labels, ids,"
            " units, epsilons and groups_<name>; rename groups, and leave other arrays out"
        )
    ids = _texts(arrays["ids"]) if "ids" in arrays else [f"{i:06d}" for i in range(n)]
    if len(set(ids)) != n:
        raise BadInput(f"{path}: ids contains a name twice; expected unique names")
    return Source(
        path=str(path),
        ids=ids,
        labels=labels,
        groups={name[7:]: _texts(array) for name, array in arrays.items() if name.startswith("groups_")},
        units=_texts(arrays["units"]) if "units" in arrays else None,
        epsilons=[str(value) for value in arrays["epsilons"].tolist()] if "epsilons" in arrays else None,
        read=lambda index: (images[index].tobytes(), np.asarray(images[index])),
        stamp=lambda _: stamp,
        warnings=_part_warning(names),
    )


def _part_warning(names: Names) -> list[str]:
    """State which part of a data set was read."""
    if not names.others:
        return []
    return [
        f"The archive has parts, and {names.images} was audited, not {', '.join(sorted(names.others))}. This is an"
        " assumption from the names; to audit other images, save them as images and labels."
    ]


def _labels(path: Path, name: str, array: NDArray[Any], n: int) -> list[str]:
    """Return a label per image from an array (n,) or (n, 1), or from one-hot rows (n, k).

    Raises BadInput for other shapes, and for rows with several classes.
    """
    if array.shape in {(n,), (n, 1)}:
        return _texts(array.reshape(n))
    if array.ndim != 2 or len(array) != n:
        raise BadInput(f"{path}: {name} has shape {list(array.shape)}; expected [{n}], one per image")
    if not (((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()):
        raise BadInput(
            f"{path}: {name} has shape {list(array.shape)}, and its rows are not one-hot; expected one class per image"
            f" as [{n}] or one-hot rows (multi-label data cannot be audited)"
        )
    return _texts(array.argmax(axis=1))


def _read(path: Path) -> dict[str, NDArray[Any]]:
    import zipfile
    import zlib

    import numpy as np

    try:
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise BadInput(f"{path}: contains one array without a name; expected the archive that np.savez writes")
        found = read_arrays(path)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path}: not readable as a NumPy archive: {error}") from None
    foreign = [name for name, array in found.items() if not isinstance(array, np.ndarray)]
    if foreign:
        raise BadInput(f"{path}: its {foreign[0]} is not an array; expected the archive that np.savez writes")
    return found


def _texts(array: NDArray[Any]) -> list[str]:
    """Return the values as text."""
    return [_text(value) for value in array.tolist()]


def _text(value: Any) -> str:
    """Decode bytes and write whole numbers without decimals."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)


def _check(path: Path, name: str, images: NDArray[Any]) -> None:
    """Raise BadInput unless the images are uint8, or float in [0, 1]."""
    import numpy as np

    if images.dtype == np.uint8 or not images.size:
        return
    if not np.issubdtype(images.dtype, np.floating):
        raise BadInput(f"{path}: {name} has type {images.dtype}; expected uint8, or float in [0, 1]")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise BadInput(
            f"{path}: {name} has values from {low:.3g} to {high:.3g}; expected float in [0, 1], or uint8 (the audit"
            " works on pixels; put mean and standard deviation into the model's sidecar)"
        )
