"""File names may hold any bytes: everything is audited, and every report is readable text."""

from __future__ import annotations

import csv
import io
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from auditor.cli.main import main
from auditor.data.dataset import Source
from auditor.plugins.formats.manifest import auditor_open_images
from auditor.printable import original, printable_name

FOREIGN = "M\udcfcnchen.png"
NAMES = [
    FOREIGN,
    r"M\xfcnchen.png",
    "line\nbreak.png",
    "tab\tbell\x07.png",
    "<script>alert(1)<\uff0fscript>.png",
    "right\u202eto left.png",
    "猫 & 'quote' \"double\".png",
    "percent %s {brace} {{x}}.png",
    "| pipe [link](x) `code`.png",
    "x" * 240 + ".png",
    "#2.png",
    "-rf.png",
    "no ending",
]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")


def test_printable_names_are_reversible_and_distinct() -> None:
    letters = "a\\xu0f\udcff\u202e\n\x80\u2028"
    draw = random.Random(0)
    names = {"".join(draw.choice(letters) for _ in range(draw.randint(0, 6))) for _ in range(20_000)}
    printed = {printable_name(name): name for name in names}
    assert len(printed) == len(names)
    for text, name in printed.items():
        assert original(text) == name
        text.encode()
        assert text.isprintable()


def test_ordinary_names_do_not_change() -> None:
    for name in ("cat/001.png", "Bilder/größe 1.png", "猫/一.png", "نص.png", r"a\b.png", "e\u0301.png"):
        assert printable_name(name) == name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, linear_model: Callable[..., Path]) -> Path:
    """A folder with a name that is not UTF-8, with data and suite in it; the model is next to it."""
    folder = tmp_path_factory.mktemp("names") / "d\udce9p\u00f4t"
    weights = np.array([np.ones(16), -np.ones(16)])
    linear_model(folder.parent / "model.onnx", weights, np.array([-8.0, 8.0]), (1, 4, 4))
    folder.mkdir()
    for name, grey in (("hell\udce9", 160), ("dark", 96)):
        (folder / "data" / name).mkdir(parents=True)
        for i, file in enumerate(NAMES):
            Image.fromarray(np.full((4, 4), grey + i, dtype=np.uint8)).save(folder / "data" / name / file, "PNG")
        (folder / "data" / name / "notes\udcfc.txt").write_text("no image")
    (folder / "suite.toml").write_text('probes = ["performance.accuracy", "attacks.fgsm"]\n')
    return folder


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="auditor")


@pytest.fixture(scope="module")
def audited(folder: Path) -> Path:
    formats = "html,pdf,json,sarif,junit,md,card"
    arguments = ["run", folder.parent / "model.onnx", "--data", folder / "data", "--suite", folder / "suite.toml"]
    (folder / "classes.txt").write_text("hell\\xe9\ndark\n")
    done = call(*arguments, "--out", folder / "out\udcff", "--format", formats, "--classes", folder / "classes.txt")
    assert done.exit_code == 0, done.stderr
    assert "Skipped in" in done.stderr
    return folder / "out\udcff"


def test_every_image_is_audited_with_its_own_id(audited: Path) -> None:
    shard = next((audited / "records" / "performance.accuracy").glob("*.parquet"))
    ids = pq.read_table(io.BytesIO(shard.read_bytes()))["image_id"].to_pylist()
    expected = {f"{printable_name(name)}/{printable_name(file)}" for name in ("hell\udce9", "dark") for file in NAMES}
    assert set(ids) == expected
    record = json.loads((audited / "audit.json").read_text("utf-8"))
    assert record["data"]["n"] == len(expected)
    assert record["data"]["skipped"] == [
        {"reason": "not an image", "n": 2, "names": ["dark/notes\\xfc.txt", "hell\\xe9/notes\\xfc.txt"]}
    ]


def test_every_report_is_readable_text(audited: Path) -> None:
    html = (audited / "report.html").read_text("utf-8")
    assert "<script>alert(1)" not in html
    for name in ("audit.json", "audit.sarif", "audit.junit.xml", "summary.md", "report.html"):
        text = (audited / name).read_text("utf-8")
        assert all(character.isprintable() or character in "\n\t\u00a0\u00ad\u202f" for character in text), name
    json.loads((audited / "audit.sarif").read_text("utf-8"))
    ET.parse(audited / "audit.junit.xml")
    assert (audited / "report.pdf").read_bytes().startswith(b"%PDF")


def test_a_manifest_names_files_with_the_escapes_of_their_ids(folder: Path) -> None:
    lines = [f"data/dark/{printable_name(name)}" for name in NAMES if "," not in name]
    with (folder / "manifest.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["image"], *([line] for line in lines)])
    source = auditor_open_images(folder / "manifest.csv")
    assert isinstance(source, Source)
    pixels = {np.asarray(source.read(i)[1])[0, 0] for i in range(len(lines))}
    assert len(pixels) == len(lines)
    assert list(source.printable().ids) == lines


def test_a_model_path_that_no_runtime_can_open_is_refused(folder: Path) -> None:
    model = folder / "mod\udce8le.onnx"
    model.write_bytes((folder.parent / "model.onnx").read_bytes())
    done = call("run", model)
    assert done.exit_code == 2
    assert "d\\xe9p\u00f4t/mod\\xe8le.onnx: the path of the model holds characters that are not UTF-8" in done.stderr


def test_the_run_can_be_resumed_judged_drawn_replayed_and_compared(folder: Path, audited: Path) -> None:
    before = sorted(path.name for path in audited.glob("records/*/shard-*.parquet"))
    arguments = ["run", folder.parent / "model.onnx", "--data", folder / "data", "--suite", folder / "suite.toml"]
    done = call(*arguments, "--out", audited, "--format", "json", "--classes", folder / "classes.txt")
    assert done.exit_code == 0, done.stderr
    assert sorted(path.name for path in audited.glob("records/*/shard-*.parquet")) == before
    for command in (
        ["replay", audited, "-v"],
        ["judge", audited, "--policy", "strict", "--format", "json,md"],
        ["report", audited, "--format", "html,md"],
        ["compare", audited, audited, "--out", folder / "comparison"],
    ):
        done = call(*command)
        assert done.exit_code == 0, (command, done.stderr)
