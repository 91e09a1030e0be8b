"""The importer agrees with ONNX Runtime at every revision of the operators that changed most.

``benchmarks/operator_revisions.py`` does the same for all operators, in a minute.
"""

from __future__ import annotations

import importlib
from collections import Counter, defaultdict
from typing import Any

import pytest
from helpers import benchmark
from onnx.backend.test.case import node

REVISIONS = {
    "ArgMax": [7, 11, 12, 13],
    "Clip": [7, 11, 12, 13],
    "Pad": [7, 11, 13, 18, 19, 21],
    "ReduceSum": [7, 11, 13],
    "Slice": [7, 10, 11, 13],
    "Softmax": [7, 11, 13],
    "Split": [7, 11, 13, 18],
    "Squeeze": [7, 11, 13, 21],
    "TopK": [7, 10, 11],
    "Unsqueeze": [7, 11, 13, 21],
}
"""Opsets that changed an operator, from 7 on: 21 is the newest that every supported ONNX Runtime runs."""


@pytest.fixture(scope="module")
def script() -> Any:
    """benchmarks/operator_revisions.py"""
    return benchmark("operator_revisions")


@pytest.fixture(scope="module")
def verdicts(script: Any) -> dict[str, dict[int, Counter[str]]]:
    """How many cases of an operator and a revision pass, are refused and are wrong."""
    for operator in REVISIONS:
        # importing the module of an operator creates its tests
        importlib.import_module(f"onnx.backend.test.case.node.{operator.lower()}")
    counts: dict[str, dict[int, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for case in script.cases(list(node._NodeTestCases), REVISIONS):
        counts[case.operator][case.revision][script.judge(case, script.ours)] += 1
    return counts


@pytest.mark.parametrize("operator", REVISIONS)
def test_an_operator_agrees_at_every_revision(
    operator: str, script: Any, verdicts: dict[str, dict[int, Counter[str]]]
) -> None:
    counts = verdicts[operator]
    assert [opset for opset in sorted(counts) if opset <= 21 and counts[opset][script.PASSED]] == REVISIONS[operator]
    assert not any(count[script.WRONG] or count[script.STANDARD] for count in counts.values())


def test_a_wrong_value_is_noticed(script: Any, verdicts: object) -> None:
    case = next(script.cases(list(node._NodeTestCases), ["Clip"]))
    assert script.judge(case, script.ours) == script.PASSED
    correct = script.ours(case)
    assert script.judge(case, lambda _: lambda: [result + 1 for result in correct()]) == script.WRONG
    assert script.judge(case, lambda _: None) == script.REFUSED
