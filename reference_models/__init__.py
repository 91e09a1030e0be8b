"""Reference models: documented classifiers that ``auditor train`` builds, one file per recipe, all of the same shape.

A recipe module has ``TITLE`` and ``train(out, data=None, say=print) -> Path``: it trains, exports ONNX and TorchScript
with their sidecars into ``out``, and returns the ONNX file.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from auditor.errors import BadInput


def recipes() -> list[str]:
    """Names of the recipes: their file names with hyphens."""
    return sorted(
        path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py") if path.stem != "export"
    )


def recipe(name: str) -> ModuleType:
    """The recipe called ``name``. Raises BadInput for one that is not there."""
    if name not in recipes():
        raise BadInput(f"recipe {name!r}: no such recipe; expected one of {', '.join(recipes())}")
    return import_module(f"auditor.reference_models.{name.replace('-', '_')}")
