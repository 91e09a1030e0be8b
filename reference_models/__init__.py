"""Reference models: documented classifiers that ``auditor train`` builds, one file per recipe, with a common structure.

A recipe module has ``TITLE`` and ``train(out, data=None, say=print) -> Path``: it trains, exports ONNX and TorchScript
with their sidecars to ``out``, and returns the ONNX file. A recipe with ``Settings`` and ``PRESETS`` also takes
``options``: preset, weights, device, single settings. A recipe with ``WEIGHTS`` trains nothing and takes ``weights``. A
recipe that fine-tunes a torchvision network names it in ``BACKBONE``. One with ``adapt`` also trains the networks of
``transfer.BACKBONES`` on its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from auditor.errors import BadInput
from auditor.toml import nearest

ADAPTABLE = ("birds-resnet18", "faces-resnet18", "gender-resnet18")
"""The recipes with ``adapt``; listed, so that ``--backbone`` with another is refused before torch is imported."""


def recipes() -> list[str]:
    """Return the names of the recipes: their file names with hyphens."""
    return sorted(path.stem.replace("_", "-") for path in Path(__file__).parent.glob("[a-z]*.py"))


def recipe(name: str) -> ModuleType:
    """Return the recipe called ``name``. Raises BadInput for an unknown name."""
    if name not in recipes():
        hint = nearest(name, recipes())
        raise BadInput(f"recipe {name!r}: no such recipe{hint}; expected one of {', '.join(recipes())}")
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
    backbone: str | None = None,
) -> Path:
    """Train the recipe ``name`` into ``out`` and return the ONNX file. Raises BadInput for an unsupported option."""
    if backbone is not None and name in recipes() and name not in ADAPTABLE:
        raise BadInput(
            f"recipe {name} has no --backbone; expected one of the recipes {', '.join(ADAPTABLE)}, or omit the option"
        )
    module = recipe(name)
    if hasattr(module, "WEIGHTS"):
        if preset or overrides or fresh:
            raise BadInput(f"recipe {name} has no settings; omit --preset, --set and --fresh")
        exported: Path = module.train(out, data, say, weights or "pretrained")
        return exported
    if not hasattr(module, "Settings"):
        if preset or weights or overrides or fresh:
            raise BadInput(f"recipe {name} has no settings; omit --preset, --weights, --set and --fresh")
        result: Path = module.train(out, data, say)
        return result
    from auditor.reference_models.common.settings import Options

    options = Options(
        preset=preset or "full",
        weights=weights or ("none" if preset == "tiny" and backbone is None else "pretrained"),
        device=device,
        fresh=fresh,
        backbone=backbone,
        overrides=overrides,
    )
    if backbone is not None:
        from auditor.reference_models.common.transfer import check

        # before the images are read, which may take minutes
        check(backbone, options.weights)
        adapted: Path = module.adapt(out, data, say, options)
        return adapted
    if hasattr(module, "BACKBONE") and options.weights == "pretrained":
        from auditor.reference_models.common.networks import download

        # before the images are read, which may take minutes
        download(module.BACKBONE)
    result = module.train(out, data, say, options)
    return result


def listing() -> str:
    """List every recipe with its title."""
    names = recipes()
    width = max(map(len, names))
    return "\n".join(f"{name:{width}}  {recipe(name).TITLE}" for name in names)
