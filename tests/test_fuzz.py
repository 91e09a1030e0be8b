"""Files of others are read or refused with one sentence: some hundred inputs of ``benchmarks/fuzz.py``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from helpers import benchmark
from PIL import Image

from auditor.data.dataset import Images
from auditor.errors import BadInput
from auditor.plugin import registry
from auditor.toml import parse_toml, typed

INPUTS = {
    "audit": 10,
    "manifest": 6,
    "parquet": 12,
    "picture": 4,
    "suite": 30,
    "policy": 15,
    "sidecar": 30,
    "data": 6,
}
"""Number of inputs by kind."""


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The fuzzer of the script, with a finished run."""
    module = benchmark("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("cwd"))
        yield module.prepared(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", INPUTS)
def test_hostile_files_give_a_result_or_one_sentence(fuzzer: Any, kind: str) -> None:
    assert set(fuzzer.kinds) == set(INPUTS)
    faults, refused = {}, 0
    for seed in range(INPUTS[kind]):
        outcome = fuzzer.once(kind, seed)
        refused += outcome == "refused"
        if outcome not in {"result", "refused", "report missing"}:
            faults[seed] = outcome
    assert not faults
    assert refused > 0 or kind in {"data", "picture"}, "the inputs must be hostile"


# special files


@pytest.fixture
def special(tmp_path: Path) -> Path:
    """A table of one picture, a FIFO, a folder, a device that never ends, and a socket's name without a file."""
    Image.new("L", (4, 4)).save(tmp_path / "good.png")
    os.mkfifo(tmp_path / "fifo.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "table.csv").write_text("image\ngood.png\nfifo.png\nfolder.png\n/dev/zero\nmissing.png\n")
    return tmp_path


def test_special_files_are_unreadable_images(special: Path) -> None:
    source = registry.load().first("auditor_open_images", path=special / "table.csv")
    images = Images(source, shape=(1, 4, 4))
    assert images.ids == ("good.png",)
    assert images.unreadable == [
        "fifo.png: is a FIFO, a socket or a device, not a file",
        "folder.png: is a folder",
        "/dev/zero: is a FIFO, a socket or a device, not a file",
        "missing.png: No such file or directory",
    ]


def test_special_files_in_a_folder_are_skipped(special: Path) -> None:
    (special / "table.csv").unlink()
    (special / "zero.png").symlink_to("/dev/zero")
    source = registry.load().first("auditor_open_images", path=special)
    assert source.skipped["not a file"] == ["fifo.png", "zero.png"]
    assert source.skipped["folder without images"] == ["folder.png"]


@pytest.mark.parametrize("path", ["fifo.png", "/dev/zero"])
def test_special_file_as_data_or_model_is_refused(
    special: Path, auditor_cli: Callable[..., Result], linear_model: Callable[..., Path], path: str
) -> None:
    model = linear_model(special / "linear.onnx", np.ones((2, 16)), np.zeros(2), (1, 4, 4))
    for arguments in (["run", model, "--data", path, "--trust-model"], ["run", path], ["inspect", path]):
        result = auditor_cli(*arguments)
        assert result.exit_code == 2, result.output
        assert "is a FIFO, a socket or a device; expected" in result.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = 0x" + "f" * 10_000, "a whole number of 40000 bits"),
        ("a = [1" + "0" * 400 + "]", "a whole number of 1329 bits"),
        ("a = " + "9" * 5000, "Exceeds the limit"),
        (".".join("a" * 3000) + " = 1", "recursion"),
        ("a = " + "[" * 3000 + "]" * 3000, "recursion"),
    ],
    ids=["hexadecimal", "400 digits", "5000 digits", "dotted", "nested"],
)
def test_toml_that_cannot_be_printed_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=f"file: not readable as TOML: .*{reason}"):
        parse_toml(text, "file")


def test_long_value_is_shortened_in_the_message() -> None:
    with pytest.raises(BadInput) as refused:
        typed("x" * 100_000, int, "samples")
    assert str(refused.value) == f"samples is '{'x' * 116}...; expected a whole number"
    assert parse_toml(f"a = {2**63 - 1}", "file") == {"a": 2**63 - 1}
