"""Write a new plugin as an installable package (``auditor plugin new NAME``)."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from string import Template

from auditor.errors import BadInput
from auditor.plugin.hookspecs import API_VERSION

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "$name"
version = "0.1.0"
description = "A probe for auditor"
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["auditor"]

[project.entry-points."auditor.plugins"]
$noun = "$module:$kind"

[tool.setuptools]
py-modules = ["$module"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""

_MODULE = '''\
"""$title: a vertical bar of one grey level at a random place of the image.

Describe what the probe does, with its formula and its source (paper, section). `auditor probes` shows this text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from auditor import Batch, Classifier, Corruption, Level, Meta, Pixels, Randomness

AUDITOR_API = "$api"


@dataclass(frozen=True, kw_only=True)
class $kind(Corruption):
    """A bar over the full height. The fields below are the settings of the probe."""

    meta = Meta(
        id="$id",
        area="corruptions",
        title="$title",
        why="State what a bad result means: narrow objects in front of the subject are common.",
    )
    widths: Sequence[float] = (0.05, 0.1, 0.2, 0.4)
    """Width of the bar as a fraction of the image width."""
    grey: float = 0.5
    """Grey level of the bar, from 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse unusable settings; the message becomes one sentence for the user."""
        if not all(0 < width <= 1 for width in self.widths):
            raise ValueError(f"widths is {list(self.widths)}; expected fractions above 0, up to 1")

    def levels(self) -> Sequence[Level]:
        """Return all levels, weakest first: texts that name the line of the curve, and exactly one number."""
        return [{"damage": "bar", "width": width} for width in self.widths]

    def perturb(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Return the batch at one level: (n, c, h, w) float32 in [0, 1], a new array."""
        images = batch.pixels.copy()
        columns = images.shape[3]
        width = max(1, round(level["width"] * columns))
        for image, image_id in zip(images, batch.ids, strict=True):
            # random numbers depend on the seed, the probe and this image, never on the batch
            left = int(rng(image_id).integers(0, columns - width + 1))
            image[:, :, left : left + width] = self.grey
        return images
'''

_TEST = '''\
"""Known answers of $id, and the rules for all probes."""

from typing import cast

import numpy as np
import pytest
from auditor import Batch, Classifier, Randomness
from auditor.conformance.package import check_package

from $module import $kind


@pytest.fixture
def batch() -> Batch:
    """Two black images of 3 x 8 x 20 pixels."""
    return Batch(
        ids=("a", "b"),
        pixels=np.zeros((2, 3, 8, 20), dtype=np.float32),
        labels=np.zeros(2, dtype=np.int64),
        probabilities=np.full((2, 2), 0.5, dtype=np.float32),
        groups={},
    )


def test_bar_has_the_width_of_the_level(batch: Batch) -> None:
    probe = $kind(grey=0.25)
    unused = cast(Classifier, None)
    for level in probe.levels():
        images = probe.perturb(unused, batch, Randomness(0, "$id"), level)
        np.testing.assert_allclose(images.sum(axis=(1, 2, 3)), 0.25 * 3 * 8 * round(level["width"] * 20), rtol=1e-6)


def test_width_beyond_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="expected fractions"):
        $kind(widths=(2.0,))


def test_plugin_passes_the_checks() -> None:
    assert check_package("$name").failed == []
'''

_README = """\
# $name

A plugin for auditor with one probe, `$id`.

    pip install -e .                 # into the environment of auditor
    auditor plugin check $name
    auditor probes $id
    auditor run model.onnx --probe $id --probe performance.accuracy
    pytest

`$module.py` contains the probe. Change `levels` and `perturb`, then the title, `why` and the docstring. For an attack,
derive from `auditor.Attack` and add `threat_model`; for anything else, derive from `auditor.Probe`. The documentation
of auditor (docs/how-to/plugins.md) describes what each base class provides and which rules a probe must follow.
"""


def write(name: str, place: Path | None = None) -> list[Path]:
    """Write the package ``name`` into a new folder of that name and return its files.

    Raises:
        BadInput: if the name is not a package name, or the folder exists.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r}: not a package name; expected lower-case letters, digits and single hyphens")
    noun = name.removeprefix("auditor-")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module == "auditor":
        raise BadInput(f"{name!r}: Python has a module of this name; choose another, for example auditor-{name}")
    folder = (place or Path()) / name
    if folder.exists():
        raise BadInput(f"{folder}: already exists; choose another name or remove it")
    filled = {
        "name": name,
        "module": module,
        "noun": noun,
        "id": f"corruptions.{noun}",
        "kind": "".join(part.capitalize() for part in noun.split("-")),
        "title": noun.replace("-", " ").capitalize(),
        "api": API_VERSION,
    }
    if not filled["kind"].isidentifier() or keyword.iskeyword(filled["kind"]):
        raise BadInput(f"{name!r}: the part after auditor- must begin with a letter")
    texts = {
        "pyproject.toml": _PYPROJECT,
        f"{module}.py": _MODULE,
        f"tests/test_{module}.py": _TEST,
        "README.md": _README,
    }
    files = []
    for file, text in texts.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(text).substitute(filled), encoding="utf-8")
        files.append(path)
    return files
