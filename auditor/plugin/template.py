"""A new plugin as an installable package: what ``auditor plugin new NAME`` writes."""

from __future__ import annotations

import keyword
import re
import sys
from pathlib import Path
from string import Template

from auditor.errors import BadInput

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
$noun = "$module"

[tool.setuptools]
py-modules = ["$module"]

[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
"""

_MODULE = '''\
"""$title: a bar of one grey level at a random place of the image.

Say here what the probe does, with its formula and its source (paper, section): `auditor probes` shows it with the id.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from auditor import Corruption, Level, Meta, Probe, hookimpl


@dataclass(frozen=True, kw_only=True)
class $kind(Corruption):
    """A bar over all rows. The fields below are the probe's settings."""

    meta = Meta(
        id="$id",
        area="corruptions",
        title="$title",
        why="Say here what a bad result means: something narrow before the object is common.",
    )
    widths: Sequence[float] = (0.05, 0.1, 0.2, 0.4)
    """Of the bar, as shares of the image's width."""
    grey: float = 0.5
    """Level of the bar, from 0 to 1."""

    def __post_init__(self) -> None:
        """Refuse settings that make no sense; the message becomes one sentence for the user."""
        if not all(0 < width <= 1 for width in self.widths):
            raise ValueError(f"widths is {list(self.widths)}; expected shares above 0, up to 1")

    def levels(self) -> Sequence[Level]:
        """Weakest first: any texts, which name the line of the curve, and one number."""
        return [{"damage": "bar", "width": width} for width in self.widths]

    def perturb(self, classifier, batch, rng, level):
        """The batch at one level: (n, c, h, w) float32 in [0, 1], a new array."""
        images = batch.pixels.copy()
        columns = images.shape[3]
        width = max(1, round(level["width"] * columns))
        for image, image_id in zip(images, batch.ids, strict=True):
            # random numbers depend on the seed, the probe and this image alone, never on the batch
            left = int(rng(image_id).integers(0, columns - width + 1))
            image[:, :, left : left + width] = self.grey
        return images


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """The entry point in pyproject.toml names this module; the auditor asks it here."""
    return [$kind]
'''

_TEST = '''\
"""Known answers of $id, and what every probe owes the auditor."""

import numpy as np
import pytest
from auditor.conformance.package import check_package
from auditor.data.dataset import Batch
from auditor.probes.base import Randomness

from $module import $kind


@pytest.fixture
def batch():
    """Two black images of 3 x 8 x 20 pixels."""
    return Batch(
        ids=("a", "b"),
        pixels=np.zeros((2, 3, 8, 20), dtype=np.float32),
        labels=np.zeros(2, dtype=np.int64),
        probabilities=np.full((2, 2), 0.5, dtype=np.float32),
        groups={},
    )


def test_the_bar_is_as_wide_as_the_level_says(batch):
    probe = $kind(grey=0.25)
    for level in probe.levels():
        images = probe.perturb(None, batch, Randomness(0, "$id"), level)
        np.testing.assert_allclose(images.sum(axis=(1, 2, 3)), 0.25 * 3 * 8 * round(level["width"] * 20), rtol=1e-6)


def test_a_width_beyond_the_image_is_refused():
    with pytest.raises(ValueError, match="expected shares"):
        $kind(widths=(2.0,))


def test_it_does_what_every_probe_owes():
    assert check_package("$name").failed == []
'''

_README = """\
# $name

A plugin for auditor with one probe, `$id`.

    pip install -e .                 # beside the auditor, in its environment
    auditor plugin check $name
    auditor probes $id
    auditor run model.onnx --probe $id --probe performance.accuracy
    pytest

`$module.py` holds the probe: change `levels` and `perturb`, then title, `why` and the docstring. For an attack derive
from `auditor.Attack` and add `threat_model`; for anything else from `auditor.Probe`. The auditor's
docs/how-to/plugins.md says what each base gives and what a probe owes.
"""


def write(name: str, place: Path | None = None) -> list[Path]:
    """Write the package ``name`` into a new folder of that name; the files.

    Raises BadInput for a name that no package can have, or whose folder is there.
    """
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name!r}: no name for a package; expected lower case letters, digits and single hyphens")
    noun = name.removeprefix("auditor-")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or module == "auditor":
        raise BadInput(f"{name!r}: Python has a module called so; choose another name, for example auditor-{name}")
    folder = (place or Path()) / name
    if folder.exists():
        raise BadInput(f"{folder}: is there already; choose another name, or remove it")
    filled = {
        "name": name,
        "module": module,
        "noun": noun,
        "id": f"corruptions.{noun}",
        "kind": "".join(part.capitalize() for part in noun.split("-")),
        "title": noun.replace("-", " ").capitalize(),
    }
    if not filled["kind"].isidentifier() or keyword.iskeyword(filled["kind"]):
        raise BadInput(f"{name!r}: what comes after auditor- must begin with a letter")
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
