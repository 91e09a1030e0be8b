"""Write a new plugin as an installable package (``auditor plugin new NAME --kind KIND``).

The texts are files in ``templates/``: for each kind its module and its tests, and what is common to all kinds.
"""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from auditor.errors import BadInput
from auditor.plugin.hookspecs import API_VERSION
from auditor.toml import nearest

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of plugin."""

    what: str
    """What the package contains, for its description."""
    area: str = ""
    """The area of its probe; empty for a plugin without a probe."""
    change: str
    """Which part of the module to change first."""
    use: str
    """How to use what the plugin provides, with the placeholders of the templates."""


_RUN_PROBE = "auditor run model.onnx --probe $id --probe performance.accuracy"

KINDS: Mapping[str, Kind] = {
    "attack": Kind(
        what="An attack within a budget", area="attacks", change="Change `levels` and `perturb`", use=_RUN_PROBE
    ),
    "minimum-norm": Kind(
        what="A search for the nearest misclassified image", area="attacks", change="Change `search`", use=_RUN_PROBE
    ),
    "corruption": Kind(
        what="Random damage of images", area="corruptions", change="Change `levels` and `perturb`", use=_RUN_PROBE
    ),
    "metric": Kind(
        what="A metric of a model", area="metrics", change="Change `measure` and `conclude`", use=_RUN_PROBE
    ),
    "bias": Kind(what="A comparison of groups", area="bias", change="Change `measure` and `conclude`", use=_RUN_PROBE),
    "explanation": Kind(what="Attribution maps", area="explanations", change="Change `attribute`", use=_RUN_PROBE),
    "sanity": Kind(
        what="A check of the measurement", area="sanity", change="Change `measure` and `conclude`", use=_RUN_PROBE
    ),
    "model": Kind(
        what="A model format",
        change="Change `auditor_open_model` and `auditor_example_files`",
        use="auditor run model.$noun",
    ),
    "data": Kind(
        what="A data format",
        change="Change `auditor_open_images` and `auditor_example_files`",
        use="auditor run model.onnx --data images.$noun",
    ),
    "report": Kind(what="A report format", change="Change `render`", use="auditor run model.onnx --format $noun"),
    "publisher": Kind(
        what="A publisher of finished runs",
        change="Change `auditor_run_finished`",
        use="$variable=runs.jsonl auditor run model.onnx",
    ),
}


def write(name: str, kind: str = "corruption", place: Path | None = None) -> list[Path]:
    """Write the package ``name`` with a plugin of this kind into a new folder of that name and return its files.

    Raises:
        BadInput: if the name is not a package name, the kind is unknown, or the folder exists.
    """
    if kind not in KINDS:
        raise BadInput(f"--kind {kind}: no such kind{nearest(kind, KINDS)}; expected one of {', '.join(KINDS)}")
    filled = _filled(name, KINDS[kind])
    folder = (place or Path()) / name
    if folder.exists():
        raise BadInput(f"{folder}: already exists; choose another name or remove it")
    module, stem = filled["module"], kind.replace("-", "_")
    templates = {
        "pyproject.toml": "pyproject.toml",
        f"{module}.py": f"{stem}.py",
        f"tests/test_{module}.py": f"{stem}_test.py",
        "tests/test_conformity.py": "test_conformity.py",
        "README.md": "README.md",
    }
    files = []
    for file, template in templates.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (_TEMPLATES / f"{template}.tmpl").read_text(encoding="utf-8")
        path.write_text(Template(text).substitute(filled), encoding="utf-8")
        files.append(path)
    return files


def _filled(name: str, kind: Kind) -> dict[str, str]:
    """Return the text of each placeholder. Raises BadInput if the name is not a package name."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r}: not a package name; expected lower-case letters, digits and single hyphens")
    noun = name.removeprefix("auditor-")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module == "auditor":
        raise BadInput(f"{name!r}: Python has a module of this name; choose another, for example auditor-{name}")
    class_name = "".join(part.capitalize() for part in noun.split("-"))
    if not class_name.isidentifier() or keyword.iskeyword(class_name):
        raise BadInput(f"{name!r}: the part after auditor- must begin with a letter")
    filled = {
        "name": name,
        "module": module,
        "noun": noun,
        "snake": noun.replace("-", "_"),
        "variable": f"{module.upper()}_FILE",
        "id": f"{kind.area}.{noun}",
        "kind": class_name,
        "title": noun.replace("-", " ").capitalize(),
        "title_lower": noun.replace("-", " "),
        "entry": f"{module}:{class_name}" if kind.area else module,
        "api": API_VERSION,
        "what": kind.what,
        "change": f"{kind.change}, then the texts.",
    }
    return filled | {"use": Template(kind.use).substitute(filled)}
