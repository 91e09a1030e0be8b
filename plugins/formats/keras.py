"""Keras models: refused, with the command that exports them to ONNX.

A ``.keras`` archive describes layers by the names of Python classes and may hold code, so only Keras can run it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from auditor import BadInput, hookimpl

if TYPE_CHECKING:
    from auditor.model.artefact import Artefact


@hookimpl
def auditor_open_model(path: Path, device: str) -> Artefact | None:
    """Refuse ``*.keras``, ``*.h5`` and ``*.hdf5``."""
    del device
    if path.suffix.lower() not in {".keras", ".h5", ".hdf5"}:
        return None
    raise BadInput(
        f"{path}: a Keras model, which only Keras can run; export it in Python with Keras 3.8 or later:"
        f' model = keras.saving.load_model("{path.name}"); model(images);'
        f' model.export("{path.stem}.onnx", format="onnx"), with any batch of images; then audit {path.stem}.onnx'
    )
