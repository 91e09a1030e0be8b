"""Reference models: documented classifiers that ``auditor train`` builds, one file per recipe, all of the same shape.

A recipe module has ``TITLE`` and ``train(out, data=None, say=print) -> Path``: it trains, exports ONNX and TorchScript
with their sidecars into ``out``, and returns the ONNX file. One with ``Settings`` and ``PRESETS`` takes ``options``,
too: preset, weights, device, single settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from auditor.errors import BadInput


def recipes() -> list[str]:
    """Names of the recipes: their file names with hyphens."""
    return sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py"))


def recipe(name: str) -> ModuleType:
    """The recipe called ``name``. Raises BadInput for one that is not there."""
    if name not in recipes():
        raise BadInput(f"recipe {name!r}: no such recipe; expected one of {', '.join(recipes())}")
    return import_module(f"auditor.reference_models.{name.replace('-', '_')}")


def build(
    name: str,
    out: Path,
    data: Path | None,
    say: Callable[[str], None],
    *,
    preset: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    overrides: Sequence[str] = (),
    fresh: bool = False,
) -> Path:
    """Train the recipe ``name`` into ``out``; the ONNX file. Raises BadInput for an option that it does not have."""
    module = recipe(name)
    if not hasattr(module, "Settings"):
        if preset or weights or overrides or fresh:
            raise BadInput(f"recipe {name} has no settings; leave --preset, --weights, --set and --fresh out")
        result: Path = module.train(out, data, say)
        return result
    from auditor.reference_models.common.settings import Options

    options = Options(
        preset=preset or "full",
        weights=weights or ("none" if preset == "tiny" else "pretrained"),
        device=device,
        fresh=fresh,
        overrides=overrides,
    )
    result = module.train(out, data, say, options)
    return result


def listing() -> str:
    """Every recipe with its title."""
    names = recipes()
    width = max(map(len, names))
    return "\n".join(f"{name:{width}}  {recipe(name).TITLE}" for name in names)
