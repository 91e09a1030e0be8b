"""Labels of the data and classes of the model: numbers, names, Unicode, and what is said about an unknown order."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from auditor.data.class_orders import common_orders
from auditor.data.labels import ALPHABETICAL, INDICES, match_labels, number_of
from auditor.errors import BadInput
from auditor.model.loading.metadata import NAME_KEYS, class_lines, class_names, metadata_files, unusable_names
from auditor.model.loading.sidecar import from_tables, read_sidecar
from auditor.printable import printable_name


@pytest.mark.parametrize(
    ("name", "number"),
    [("1", 1), ("01", 1), ("1.0", 1), ("1.", 1), (" 7 ", 7), ("+3", 3), ("0", 0), ("000", 0), ("0.0", 0),
     ("1.5", None), ("-1", None), ("²", None), ("٣", None), ("", None), ("9" * 19, None), ("1e3", None)],
)  # fmt: skip
def test_numeric_label_is_a_whole_number(name: str, number: int | None) -> None:
    assert number_of(name) == number


@pytest.mark.parametrize("labels", [["1", "0", "2"], ["1.0", "0.0", "2.0"], ["01", "00", "02"], ["1", "0.0", "02"]])
def test_numeric_labels_in_any_notation_are_indices(labels: list[str]) -> None:
    matched = match_labels(labels, None, 3)
    assert matched.indices == [1, 0, 2]
    assert matched.source == INDICES
    assert "0 to 2" in matched.warning


def test_digits_that_are_class_names_are_never_indices() -> None:
    classes = [str(i) for i in range(1, 11)]
    assert match_labels(["1", "10", "3.0"], classes, 10).indices == [0, 9, 2]
    with pytest.raises(BadInput, match="label '0': the model has no class for it"):
        match_labels(["0", "1"], classes, 10)
    # sorted as text, as a folder per class is read by most training code
    assert match_labels(["2", "10"], ["0", "1", "10", "11", "2"], 5).indices == [4, 2]


def test_names_are_compared_in_normal_form_c() -> None:
    composed, decomposed = (unicodedata.normalize(form, "Käfer") for form in ("NFC", "NFD"))
    assert composed != decomposed
    assert match_labels([decomposed, "Ant"], [composed, "Ant"], 2).indices == [0, 1]
    assert match_labels([composed, "Ant"], [decomposed, "Ant"], 2).indices == [0, 1]


@pytest.mark.parametrize(
    ("label", "hint"), [("CAT", "did you mean 'Cat'"), ("dgo", "did you mean 'dog'"), ("zebra", "its 2 classes are")]
)
def test_unknown_name_gets_the_most_similar_class(label: str, hint: str) -> None:
    with pytest.raises(BadInput) as caught:
        match_labels([label], ["Cat", "dog"], 2)
    assert hint in str(caught.value)
    assert ("did you mean" in str(caught.value)) is (label != "zebra")


def test_alphabetical_order_is_stated_as_an_assumption() -> None:
    matched = match_labels(["zebra", "ant"], None, 2)
    assert (matched.indices, matched.classes, matched.source) == ([1, 0], ["ant", "zebra"], ALPHABETICAL)
    assert "Nothing states the order of the classes" in matched.warning
    assert "--classes" in matched.warning


def test_known_classes_need_no_assumption() -> None:
    matched = match_labels(["b"], ["a", "b"], 2)
    assert (matched.source, matched.warning) == ("", "")


def test_labels_that_start_at_one_are_recognised() -> None:
    with pytest.raises(BadInput, match=r"indices 0 to 9; if label 1 is the first class, give --classes 1,2,3,\.\.\."):
        match_labels([str(i) for i in range(1, 11)], None, 10)


@pytest.mark.parametrize(("names", "n"), [(["a", "b", "c"], 2), (["a"], 2)])
def test_number_of_names_must_be_the_number_of_classes(names: list[str], n: int) -> None:
    with pytest.raises(BadInput, match="cannot be matched; give the names"):
        match_labels(names, None, n)


def test_a_name_is_preferred_to_an_index() -> None:
    assert match_labels(["0", "1"], ("1", "0"), 2).indices == [1, 0]
    mixed: Any = match_labels(["1", "cat"], ("dog", "cat"), 2).indices
    assert mixed == [1, 1]


# where class names come from


@pytest.mark.parametrize(
    "text",
    ["{0: 'zebra', 1: 'ant', 2: 'bee'}", '{"0": "zebra", "1": "ant", "2": "bee"}', '["zebra", "ant", "bee"]',
     "('zebra', 'ant', 'bee')", '{"2": "bee", "1": "ant", "0": "zebra"}'],
)  # fmt: skip
@pytest.mark.parametrize("key", NAME_KEYS)
def test_class_names_in_metadata(key: str, text: str) -> None:
    assert class_names({key: text}) == {"output": {"classes": ["zebra", "ant", "bee"]}}


@pytest.mark.parametrize(
    "text",
    ["", "classify", "[1.5, 2.5]", "['only one']", "{1: 'a', 2: 'b'}", "{0: 'LABEL_0', 1: 'LABEL_1'}", "['0', '1']",
     "__import__('os')", "{'a': 'b', 'c': 'd'}", "[" * 5000, "null", "[[1], [2]]"],
)  # fmt: skip
def test_metadata_without_names_is_ignored(text: str) -> None:
    assert class_names({"names": text}) == {}


def test_equal_class_names_are_told_apart() -> None:
    assert class_names({"names": "['crane', 'tench', 'crane']"})["output"]["classes"] == ["crane", "tench", "crane (2)"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("cat\ndog\n", ["cat", "dog"]),
        ("\ufeffcat\r\n\r\ndog", ["cat", "dog"]),
        ("0 cat\n1 dog", ["cat", "dog"]),
        ("0: tench, Tinca\n1: shark", ["tench, Tinca", "shark"]),
        ("1 cat\n2 dog", ["1 cat", "2 dog"]),
        ("cat", []),
        ("", []),
    ],
)
def test_class_names_in_a_text_file(content: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text(content, encoding="utf-8")
    assert class_lines(tmp_path / "labels.txt") == expected
    found = dict(metadata_files(tmp_path / "model.onnx"))
    assert found == ({str(tmp_path / "labels.txt"): {"output": {"classes": expected}}} if expected else {})


def test_configuration_one_folder_up_is_read_after_the_one_next_to_the_model(tmp_path: Path) -> None:
    model = tmp_path / "onnx" / "model.onnx"
    model.parent.mkdir()
    (tmp_path / "config.json").write_text('{"id2label": {"0": "up", "1": "there"}}')
    assert read_sidecar(model).classes == ("up", "there")
    assert read_sidecar(model).where("classes") == str(tmp_path / "config.json")
    (model.parent / "config.json").write_text('{"id2label": {"0": "next", "1": "to it"}}')
    assert read_sidecar(model).classes == ("next", "to it")
    assert read_sidecar(model, properties={"names": "['in', 'the file']"}).classes == ("in", "the file")
    (model.parent / "model.onnx.audit.toml").write_text('[output]\nclasses = ["in", "the sidecar"]')
    assert read_sidecar(model, properties={"names": "['in', 'the file']"}).classes == ("in", "the sidecar")
    stated = {"output": {"classes": ["on", "the command line"]}}
    assert read_sidecar(model, options=stated).classes == ("on", "the command line")


NAMES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("", ""),
        ("names.txt", "\n".join(NAMES)),
        ("names.json", json.dumps(NAMES)),
        ("config.json", json.dumps({"id2label": dict(enumerate(NAMES))})),
    ],
    ids=["option", "text", "list", "configuration"],
)
def test_class_order_from_the_command_line_is_reported(
    file: str, content: str, digits: Path, auditor_cli: Callable[..., Result], tmp_path: Path
) -> None:
    if file:
        (tmp_path / file).write_text(content)
    classes = file or ",".join(NAMES)
    model = digits / "digits-cnn.onnx"
    options = ("--probe", "performance.accuracy", "--samples", 20, "--format", "json,html", "--out", "run")
    with np.load(digits / "digits-test.npz") as archive:
        labels = np.array(NAMES)[archive["labels"]]
        np.savez(tmp_path / "named.npz", images=archive["images"], labels=labels)
    result = auditor_cli("run", model, "--data", tmp_path / "named.npz", "--classes", classes, *options)
    assert result.exit_code in {0, 3}, result.output
    assert "class order from command line" in " ".join(result.output.split())
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert audit["model"]["classes"] == NAMES
    assert audit["model"]["classes_source"] == "command line"
    assert audit["probes"][0]["metrics"][0]["value"] > 0.9
    page = (tmp_path / "run" / "report.html").read_text()
    assert re.search(r"Class order from</span> <span[^>]*>command line", page)


@pytest.mark.parametrize("stated", ["one", "a,,b", "missing.txt", "empty.json"])
def test_unusable_class_names_are_refused(
    stated: str, digits: Path, auditor_cli: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "empty.json").write_text("{}")
    result = auditor_cli("inspect", digits / "digits-cnn.onnx", "--classes", stated)
    assert result.exit_code == 2
    assert "--classes" in result.output
    assert "Traceback" not in result.output


def test_classes_come_from_all_the_data_not_from_the_sample() -> None:
    matched = match_labels(["cat", "owl"], None, 3, known=["cat", "dog", "owl"])
    assert (matched.indices, matched.classes) == ([0, 2], ["cat", "dog", "owl"])
    with pytest.raises(BadInput, match=r"1 label \(cat\) and the model 3"):
        match_labels(["cat"], None, 3)
    with pytest.raises(BadInput, match="label '3'"):
        match_labels(["0"], None, 3, known=["0", "1", "3"])


def test_alphabetical_order_is_that_of_the_file_names_not_of_their_escapes() -> None:
    """Folder readers sort names as Python decodes them, so a byte that is not UTF-8 comes last."""
    names = [printable_name(os.fsdecode(raw)) for raw in ("è".encode(), b"\xb9\xb7")]
    assert names[1].startswith("\\")
    assert match_labels(names, None, 2).indices == [0, 1]
    assert list(common_orders(names)) == ["the reverse order"]


def test_class_names_in_utf_16(tmp_path: Path) -> None:
    """Windows PowerShell writes UTF-16."""
    (tmp_path / "labels.txt").write_text("cat\ndog\n", encoding="utf-16")
    assert class_lines(tmp_path / "labels.txt") == ["cat", "dog"]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("labels.txt", b"cat", "at least two"),
        ("classes.txt", b"caf\xe9\ndog", "one class name per line"),
        ("config.json", b'{"id2label": ', "not readable as JSON"),
        ("config.json", b'{"id2label": {"1": "cat", "2": "dog"}}', "name the classes 0, 1, 2"),
        ("config.json", b'{"id2label": {"0": "cat", "1": " "}}', "name the classes 0, 1, 2"),
    ],
)
def test_file_that_seems_to_name_the_classes_but_cannot_be_used_is_named(
    name: str, content: bytes, why: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (problem,) = unusable_names(tmp_path / "m.onnx")
    assert name in problem
    assert why in problem


@pytest.mark.parametrize(
    "content", ["{}", '{"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}', '{"id2label": {"0": "cat", "1": "dog"}}']
)
def test_usable_or_unrelated_configuration_is_not_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "labels.txt").write_text("cat\ndog")
    assert unusable_names(tmp_path / "m.onnx") == []


@pytest.mark.parametrize("names", [["cat", ""], ["cat", "cat"], ["caf\u00e9", "cafe\u0301"]])
def test_empty_and_equal_class_names_are_refused(names: list[str]) -> None:
    with pytest.raises(BadInput, match="at least 2 different texts, none of them empty"):
        from_tables({"output": {"classes": names}}, "command line", Path())
