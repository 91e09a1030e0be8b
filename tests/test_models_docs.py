"""docs/reference/models.md is up to date: some rows are measured again, and its claims are compared with its tables."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models
from helpers import benchmark


@pytest.fixture(scope="module")
def survey() -> Any:
    """benchmarks/torchvision_models.py"""
    return benchmark("torchvision_models")


def test_every_torchvision_family_is_in_the_table_and_none_is_black_box(survey: Any) -> None:
    builders = [
        torchvision.models.get_model_builder(name) for name in torchvision.models.list_models(torchvision.models)
    ]
    families = {builder.__module__ for builder in builders}
    assert {torchvision.models.get_model_builder(name).__module__ for name in survey.NETWORKS} == families
    rows = survey.document.rows("torchvision")
    assert set(rows) == set(survey.NETWORKS)
    cells = [cell for row in rows.values() for cell in row[2:]]
    assert len(cells) == 3 * len(rows)
    outcomes = ("white-box", "the exporter refuses")
    assert not [cell for cell in cells if not cell.startswith(outcomes)]
    # torch does not export its fused attention at opset 13
    assert len([cell for cell in cells if cell.startswith("the exporter refuses")]) <= 3


@pytest.mark.parametrize(
    ("network", "exporter"),
    [("squeezenet1_1", "default"), ("squeezenet1_1", "script-13"), ("squeezenet1_1", "script-17")],
)
def test_rows_of_the_table_measured_again(network: str, exporter: str, survey: Any, tmp_path: Path) -> None:
    enabled = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        outcome = survey.judge(network, survey.make(network), exporter, tmp_path)
    torch.backends.mha.set_fastpath_enabled(enabled)
    assert outcome.white_box, outcome.text
    assert outcome.difference < 1e-4
    assert outcome.gradient < 1e-5
    assert survey.document.rows("torchvision")[network][2 + survey.EXPORTS.index(exporter)].startswith("white-box")
    # the listed operators, which define those of classifiers, are those of the files
    assert outcome.operators <= survey.document.operators()


def test_node_test_counts_match_the_document(survey: Any) -> None:
    text = survey.document.read("node-tests")
    match = re.search(r"\*\*([\d,]+) of ([\d,]+) \(", text)
    assert match is not None
    passed, total = (int(number.replace(",", "")) for number in match.groups())
    rows = survey.document.rows("node-tests").values()
    counts = [row[2].split("/") for row in rows if row[1] == "yes" and row[2]]
    assert (sum(int(a) for a, _ in counts), sum(int(b) for _, b in counts)) == (passed, total)
    assert passed >= 0.95 * total
    assert {row[4] for row in rows} == {"0"}
    named = {row[0] for row in rows if row[1]}
    assert named == {row[0] for row in rows} & survey.document.operators()


def test_among_files_of_onnx_runtime_only_an_int8_transformer_is_black_box(survey: Any) -> None:
    rows = survey.document.rows("optimised").values()
    assert len(rows) == 15
    other = {row[0] for row in rows if not row[2].startswith(("white-box", "not written"))}
    # ONNX Runtime itself is inconsistent on that file
    assert other <= {"vit_b_16, int8, QDQ", "vit_b_16, int8, QOperator"}


def test_third_party_files_are_white_box_or_have_a_reason(survey: Any) -> None:
    rows = survey.document.rows("third-party").values()
    assert len(rows) >= 13
    assert [row[0] for row in rows if row[3] != "white-box" and not row[3].startswith("black-box: ")] == []
