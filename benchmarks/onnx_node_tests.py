"""Run the ONNX project's node tests on the importer: which operators it supports, and whether it is silently wrong.

    python benchmarks/onnx_node_tests.py [--verbose] [OPERATOR ...]

Prints passed/total per operator as a Markdown table and writes it to docs/reference/models.md. Operators that occur in
classifiers are those in the files that torchvision_models.py and third_party_models.py opened, listed in the document.
"Refused" is an error at import or when the module runs (acceptable: the audit continues as black-box). "Wrong without
an error" must be 0; otherwise the exit status is 1. Integer outputs that the importer carries as floating-point tensors
are compared by value.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import document
import numpy as np
import onnx.numpy_helper
import torch
from onnx.backend.test.case.node import collect_testcases

from auditor.errors import NoCopy
from auditor.onnx.graph import import_onnx
from auditor.onnx.operators import element_types

PASSED, REFUSED, WRONG = "passed", "refused", "wrong"


def to_array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def to_tensor(value: Any) -> torch.Tensor:
    value = to_array(value)
    if not isinstance(value, (np.ndarray, np.generic)):
        raise NoCopy(f"test data of type {type(value).__name__}")
    element_type = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return element_types.from_numpy(np.asarray(value), element_types.torch_type(element_type))


def is_close(result: Any, expected: Any, case: Any) -> bool:
    if isinstance(expected, list):
        pairs = zip(result, expected, strict=False) if isinstance(result, list) else []
        return len(result) == len(expected) and all(is_close(*pair, case) for pair in pairs)
    expected = to_array(expected)
    if not isinstance(expected, (np.ndarray, np.generic)) or not isinstance(result, torch.Tensor):
        return False
    if expected.dtype.name == "bfloat16" and result.dtype is torch.bfloat16:
        return bool(
            np.allclose(result.detach().float(), expected.astype(np.float32), rtol=2e-2, atol=1e-2, equal_nan=True)
        )
    actual, expected = result.detach().numpy(), np.asarray(expected)
    if actual.shape != expected.shape:
        return False
    if expected.dtype.kind in "iub":
        return bool(np.array_equal(actual.astype(np.float64), expected.astype(np.float64)))
    if actual.dtype != expected.dtype:
        return False
    if expected.dtype == np.float16:  # both sides are only accurate to the rounding of a few operations
        return bool(np.allclose(actual, expected, rtol=5e-3, atol=2e-3, equal_nan=True))
    return bool(np.allclose(actual, expected, rtol=max(case.rtol, 1e-3), atol=max(case.atol, 1e-6), equal_nan=True))


def on_device(value: Any, device: str) -> Any:
    """Return a tensor, or the tensors of a list, on a device."""
    return [on_device(item, device) for item in value] if isinstance(value, list) else value.to(device)


def judge(case: Any, device: str = "cpu") -> tuple[str, str]:
    """Return passed, refused or wrong, and the reason, for the module on a device."""
    try:
        module = import_onnx(case.model).to(device)
    except NoCopy as error:
        return REFUSED, str(error)
    for inputs, outputs in case.data_sets:
        try:
            results = module(*[to_tensor(value).to(device) for value in inputs])
            results = [on_device(result, "cpu") for result in results]
        except Exception as error:
            return REFUSED, f"at run time: {type(error).__name__}: {error}"
        if len(results) != len(outputs):
            return WRONG, f"{len(results)} outputs, expected {len(outputs)}"
        for index, (result, expected) in enumerate(zip(results, outputs, strict=True)):
            if not is_close(result, expected, case):
                return WRONG, f"output {index}: {result} expected {expected}"
    return PASSED, ""


def is_float(case: Any) -> bool:
    """Return True if an output has floating-point numbers of 16 bits or more."""
    types = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return any(output.type.tensor_type.elem_type in types for output in case.model.graph.output)


def operator_of(case: Any) -> str:
    """Return the operator that a case tests; a case with an expanded function body tests that function."""
    if "_expanded" not in case.name:
        return str(case.model.graph.node[0].op_type)
    # the values in the body are named after the function and the case
    values = [name for node in case.model.graph.node for name in node.output]
    return next((name.split("_test_")[0] for name in values if "_test_" in name), case.name.split("_expanded")[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", help="only the rows of these operators")
    parser.add_argument("--verbose", action="store_true", help="print why a case does not pass")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    floats: dict[str, Counter[str]] = defaultdict(Counter)
    for case in collect_testcases():
        assert case.model is not None
        name = operator_of(case)
        if arguments.operators and name not in arguments.operators:
            continue
        with contextlib.redirect_stderr(io.StringIO()):
            verdict, why = judge(case)
        counts[name][verdict] += 1
        if is_float(case):
            floats[name][verdict] += 1
        if verdict == WRONG or (arguments.verbose and verdict != PASSED):
            print(f"{verdict}: {case.name}: {why[:600]}", file=sys.stderr)
    content = {
        name: (name, "", _share(floats[name]), _share(count), str(count[WRONG])) for name, count in counts.items()
    }
    text = page((document.rows("node-tests") if arguments.operators else {}) | content)
    print(text)
    document.write("node-tests", text)
    return int(any(count[WRONG] for count in counts.values()))


def page(rows: dict[str, document.Row]) -> str:
    """Format the table and the sums of its rows. Other scripts may have changed the list of operators meanwhile."""
    surveyed = document.operators()
    rows = {name: (name, "yes" if name in surveyed else "", *row[2:]) for name, row in rows.items()}
    passed, total = _sums(row[3] for row in rows.values())
    wrong = sum(int(row[4]) for row in rows.values())
    float_passed, float_total = _sums(row[2] for row in rows.values())
    ours, of_ours = _sums(row[2] for row in rows.values() if row[1])
    header = (
        "operator",
        "in the files of this page",
        "passed, floating output",
        "passed, all",
        "wrong without an error",
    )
    return (
        f"ONNX {onnx.__version__}: {passed:,} of {total:,} cases pass, {total - passed - wrong:,} are refused by name,"
        f" {wrong:,} are wrong without an error.\n"
        f"With floating output: {float_passed:,} of {float_total:,}. Of these, about operators that occur in the files"
        f" of this page: **{ours:,} of {of_ours:,} ({100 * ours / max(1, of_ours):.1f} %)**.\n\n"
    ) + document.table(header, rows)


def _sums(shares: Iterable[str]) -> tuple[int, int]:
    """Add up fractions such as 3/4."""
    pairs = [share.split("/") for share in shares if share]
    return sum(int(passed) for passed, _ in pairs), sum(int(total) for _, total in pairs)


def _share(count: Counter[str]) -> str:
    return f"{count[PASSED]}/{count.total()}" if count.total() else ""


if __name__ == "__main__":
    sys.exit(main())
