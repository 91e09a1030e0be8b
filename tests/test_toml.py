"""The typed TOML reader, and the JSON Schemas of the files that it reads.

``UPDATE_SCHEMAS=1 pytest tests/test_toml.py`` writes the schemas after a change.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from auditor.errors import BadInput
from auditor.model.loading.sidecar import SidecarFile, from_tables
from auditor.plugin.registry import load
from auditor.plugin.suite import SuiteFile
from auditor.policy.rules import PolicyFile, builtin
from auditor.schemas import import_jsonschema, schema_path, validator
from auditor.toml import Check, Count, Text, decode, json_schema, parse_toml, read_toml, type_schema

FILES: dict[str, type[Any]] = {"policy": PolicyFile, "sidecar": SidecarFile, "suite": SuiteFile}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A table in a list of tables."""

    name: Text
    """What it is called."""


@dataclass(frozen=True, kw_only=True)
class Everything:
    """One field of every type that a file may have."""

    number: float
    """A number
    over two lines."""
    count: Count = 1
    flag: bool = False
    choice: Literal["a", "b", "c"] = "a"
    pair: tuple[int, int] = (1, 2)
    numbers: tuple[float, ...] = ()
    either: int | str | None = None
    levels: Mapping[Literal["low", "high"], float] = field(default_factory=dict)
    free: Mapping[str, Any] = field(default_factory=dict)
    day: dt.date | None = None
    part: tuple[Part, ...] = ()
    limited: Annotated[tuple[str, ...], Check("two texts", lambda value: len(value) == 2)] = ("a", "b")
    other: str = field(default="", metadata={"key": "except"})

    def __post_init__(self) -> None:
        if self.number < 0:
            raise ValueError("number must not be negative")


def read(text: str) -> Everything:
    return decode(Everything, tomllib.loads(text), "file.toml")


def test_values_get_the_types_of_the_fields() -> None:
    found = read(
        'number = "8/255"\ncount = 3\nflag = true\nchoice = "b"\npair = [3, 4]\nnumbers = [1, 2.5]\neither = "x"\n'
        'levels = {high = 1}\nfree = {x = [1]}\nday = 2030-01-31\nexcept = "y"\n[[part]]\nname = "p"'
    )
    assert found == Everything(
        number=8 / 255, count=3, flag=True, choice="b", pair=(3, 4), numbers=(1.0, 2.5), either="x",
        levels={"high": 1.0}, free={"x": [1]}, day=dt.date(2030, 1, 31), other="y", part=(Part(name="p"),),
    )  # fmt: skip
    assert read("number = 1") == Everything(number=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "file.toml: has no number; required: number"),
        ("number = -1", "file.toml: number must not be negative"),
        ("number = true", 'file.toml: number is True; expected a number or a fraction such as "8/255"'),
        ("number = inf", "file.toml: number is inf; expected a number"),
        (f"number = 1{'0' * 400}", "expected a number"),
        ("number = 1\ncount = 0", "file.toml: count is 0; expected a whole number of at least 1"),
        ("number = 1\ncount = 1.5", "file.toml: count is 1.5; expected a whole number of at least 1"),
        ("number = 1\ncounts = 1", "file.toml: unknown key 'counts' (did you mean 'count'?); expected one of"),
        ("number = 1\nflag = 1", "file.toml: flag is 1; expected true or false"),
        ('number = 1\nchoice = "d"', "file.toml: choice is 'd'; expected one of a, b, c"),
        ("number = 1\npair = [1]", "file.toml: pair is [1]; expected a list of 2"),
        ("number = 1\nnumbers = 1", "file.toml: numbers is 1; expected a list"),
        ("number = 1\neither = 1.5", "file.toml: either is 1.5; expected a text"),
        ("number = 1\nlevels = {mid = 1}", "unknown key 'mid'"),
        ("number = 1\nlevels = 3", "expected a table"),
        ('number = 1\nday = "2030-01-31"', "day is '2030-01-31'; expected a date such as 2030-01-31, without quotes"),
        ("number = 1\nday = 2030-01-31T10:00:00", "expected a date"),
        ('number = 1\n[[part]]\nname = "a"\n[[part]]\nname = ""', "file.toml: part 2: name is ''; expected a text"),
        ("number = 1\n[part]\nname = 1", "part is {'name': 1}; expected one table [[part]] per part"),
        ('number = 1\nlimited = ["a"]', "file.toml: limited is ['a']; expected two texts"),
        ("number = 1\nother = 1", "unknown key 'other'"),
    ],
)
def test_error_names_file_key_value_and_expectation(text: str, message: str) -> None:
    with pytest.raises(BadInput) as caught:
        read(text)
    assert message in str(caught.value)


def test_content_that_is_no_table_is_refused() -> None:
    with pytest.raises(BadInput, match=r"file\.toml must be a table"):
        decode(Everything, [1], "file.toml")


@pytest.mark.parametrize("text", ["[[rule", "a = 1" + "0" * 5000, "a = " + "[" * 5000 + "]" * 5000, "a = \x00"])
def test_text_that_is_not_toml_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="file: not readable as TOML"):
        parse_toml(text, "file")


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="not readable"):
        read_toml(tmp_path / "bytes.toml")


def test_schema_agrees_with_the_reader() -> None:
    schema = json_schema(Everything)
    assert schema["required"] == ["number"]
    assert schema["properties"]["number"]["description"] == "A number over two lines."
    assert "except" in schema["properties"]
    reader = import_jsonschema().Draft202012Validator(schema)
    assert reader.is_valid({"number": "8/255", "count": 1, "pair": [1, 2], "part": [{"name": "x"}]})
    for wrong in ({}, {"number": 1, "count": 0}, {"number": 1, "part": [{"name": ""}]}, {"number": 1, "x": 1}):
        assert not reader.is_valid(wrong)


# the published schemas


def published_schema(name: str) -> dict[str, Any]:
    """The schema of a file as generated from its dataclass; suites complete the settings of the built-in probes."""
    schema = json_schema(FILES[name])
    if name == "suite":
        loaded = load()
        own = {i: kind for i, kind in sorted(loaded.probes.items()) if ":" not in loaded.origin[i]}
        schema["properties"]["settings"]["properties"] = {
            probe_id: json_schema(kind) | {"description": kind.meta.title} for probe_id, kind in own.items()
        }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:auditor:{name}:1",
        "title": f"auditor {name} file (TOML)",
        **schema,
    }


@pytest.mark.parametrize("name", FILES)
def test_published_schema_is_the_generated_one(name: str) -> None:
    text = json.dumps(published_schema(name), indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_SCHEMAS"):
        schema_path(name).write_text(text, encoding="utf-8")
    assert schema_path(name).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("path", [*load().suites().values(), *builtin().values()], ids=lambda path: path.stem)
def test_packaged_file_fits_its_schema(path: Path) -> None:
    name = "suite" if path.parent.name == "suites" else "policy"
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    assert not list(validator(name).iter_errors(content))


def test_preset_fills_in_what_is_not_stated() -> None:
    found = from_tables({"input": {"preset": "imagenet", "std": [0.5]}}, "here", Path())
    assert found.std == (0.5,)
    assert found.mean == (0.485, 0.456, 0.406)
    assert (found.range, found.order) == ((0.0, 1.0), "rgb")


def test_schema_of_a_fixed_list_states_its_length() -> None:
    assert type_schema(tuple[int, int]) == {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
