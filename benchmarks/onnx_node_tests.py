"""The ONNX project's own node tests over the importer: which operators it knows, and whether it is ever silently wrong.

    python benchmarks/onnx_node_tests.py [--verbose] [OPERATOR ...]

Prints passed/total per operator as a Markdown table. "Refused" is an error at import or when the module runs (fine: the
audit goes on black-box). "Wrong without an error" must be 0, and the exit status is 1 if it is not. Integer outputs
that the importer carries as floating tensors are compared by value.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import onnx.numpy_helper
import torch
from onnx.backend.test.case.node import collect_testcases

from auditor.errors import NoCopy
from auditor.loading.importer import import_onnx

PASSED, REFUSED, WRONG = "passed", "refused", "wrong"


def to_array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def to_tensor(value: Any) -> torch.Tensor:
    value = to_array(value)
    if isinstance(value, np.ndarray) and value.dtype.name == "bfloat16":
        return torch.from_numpy(value.astype(np.float32)).to(torch.bfloat16)
    if not isinstance(value, (np.ndarray, np.generic)):
        raise NoCopy(f"test data of type {type(value).__name__}")
    return torch.from_numpy(np.array(value))


def is_close(result: Any, expected: Any, case: Any) -> bool:
    expected = to_array(expected)
    if not isinstance(expected, (np.ndarray, np.generic)) or not isinstance(result, torch.Tensor):
        return False
    if expected.dtype.name == "bfloat16" and result.dtype is torch.bfloat16:
        return bool(
            np.allclose(result.detach().float(), expected.astype(np.float32), rtol=2e-2, atol=1e-2, equal_nan=True)
        )
    found, expected = result.detach().numpy(), np.asarray(expected)
    if found.shape != expected.shape:
        return False
    if expected.dtype.kind in "iub":
        return bool(np.array_equal(found.astype(np.float64), expected.astype(np.float64)))
    if found.dtype != expected.dtype:
        return False
    if expected.dtype == np.float16:  # neither side promises more than the rounding of a few operations
        return bool(np.allclose(found, expected, rtol=5e-3, atol=2e-3, equal_nan=True))
    return bool(np.allclose(found, expected, rtol=max(case.rtol, 1e-3), atol=max(case.atol, 1e-6), equal_nan=True))


def judge(case: Any) -> tuple[str, str]:
    """Passed, refused or wrong, and why."""
    try:
        module = import_onnx(case.model)
    except NoCopy as error:
        return REFUSED, str(error)
    for inputs, outputs in case.data_sets:
        try:
            results = module(*[to_tensor(value) for value in inputs])
        except Exception as error:
            return REFUSED, f"when it ran: {type(error).__name__}: {error}"
        if len(results) != len(outputs):
            return WRONG, f"{len(results)} outputs, expected {len(outputs)}"
        for place, (result, expected) in enumerate(zip(results, outputs, strict=True)):
            if not is_close(result, expected, case):
                return WRONG, f"output {place}: {result} expected {expected}"
    return PASSED, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("operators", nargs="*", help="only these operators")
    parser.add_argument("--verbose", action="store_true", help="say why a case does not pass")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for case in collect_testcases():
        assert case.model is not None
        operators = {node.op_type for node in case.model.graph.node}
        name = case.model.graph.node[0].op_type if len(operators) == 1 else case.name.removeprefix("test_")
        name = name if "_expanded" not in case.name else name.split("_expanded")[0] + " (expanded)"
        if arguments.operators and not operators & set(arguments.operators):
            continue
        verdict, why = judge(case)
        counts[name][verdict] += 1
        if verdict == WRONG or (arguments.verbose and verdict != PASSED):
            print(f"{verdict}: {case.name}: {why[:600]}", file=sys.stderr)
    total: Counter[str] = Counter()
    print("| operator | passed | refused | wrong without an error |")
    print("|---|---|---|---|")
    for name, count in sorted(counts.items()):
        total.update(count)
        print(f"| {name} | {count[PASSED]}/{count.total()} | {count[REFUSED]} | {count[WRONG]} |")
    print(f"\nPassed {total[PASSED]} of {total.total()} ({onnx.__version__}); wrong without an error: {total[WRONG]}")
    return int(total[WRONG] > 0)


if __name__ == "__main__":
    sys.exit(main())
