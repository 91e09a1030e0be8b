"""The ONNX project's own node tests over the importer: which operators it knows, and whether it is ever silently wrong.

    python benchmarks/onnx_node_tests.py [--verbose] [OPERATOR ...]

Prints passed/total per operator as a Markdown table and writes it into docs/models.md. Operators that occur in
classifiers are those in the files that torchvision_models.py and third_party_models.py opened: their list stands in the
document. "Refused" is an error at import or when the module runs (fine: the
audit goes on black-box). "Wrong without an error" must be 0, and the exit status is 1 if it is not. Integer outputs
that the importer carries as floating tensors are compared by value.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import sys
import warnings
from collections import Counter, defaultdict
from typing import Any

import document
import numpy as np
import onnx.numpy_helper
import torch
from onnx.backend.test.case.node import collect_testcases

from auditor.errors import NoCopy
from auditor.loading.importer import import_onnx
from auditor.loading.operators import element_types

PASSED, REFUSED, WRONG = "passed", "refused", "wrong"


def to_array(value: Any) -> Any:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def to_tensor(value: Any) -> torch.Tensor:
    value = to_array(value)
    if not isinstance(value, (np.ndarray, np.generic)):
        raise NoCopy(f"test data of type {type(value).__name__}")
    kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return element_types.from_numpy(np.asarray(value), element_types.torch_type(kind))


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


def is_float(case: Any) -> bool:
    """Whether one of its outputs holds floating numbers of 16 bits or more."""
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return any(output.type.tensor_type.elem_type in kinds for output in case.model.graph.output)


def operator_of(case: Any) -> str:
    """The operator that a case is about; the cases with a function's body in its place are about that function."""
    if "_expanded" not in case.name:
        return str(case.model.graph.node[0].op_type)
    # the values in the body are named after the function and the case
    values = [name for node in case.model.graph.node for name in node.output]
    return next((name.split("_test_")[0] for name in values if "_test_" in name), case.name.split("_expanded")[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*", help="only these operators (the document stays as it is)")
    parser.add_argument("--verbose", action="store_true", help="say why a case does not pass")
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
    everything, every_float = sum(counts.values(), Counter()), sum(floats.values(), Counter())
    known = document.operators()
    of_classifiers = sum((count for name, count in floats.items() if name in known), Counter())
    lines = [
        f"ONNX {onnx.__version__}: {everything[PASSED]:,} of {everything.total():,} cases pass, {everything[REFUSED]:,}"
        f" are refused by name, {everything[WRONG]:,} are wrong without an error.",
        f"With floating output: {every_float[PASSED]:,} of {every_float.total():,}. Of these, about operators that"
        f" occur in the files of this page: **{of_classifiers[PASSED]:,} of {of_classifiers.total():,}"
        f" ({100 * of_classifiers[PASSED] / max(1, of_classifiers.total()):.1f} %)**.",
        "",
    ]
    header = (
        "operator",
        "in the files of this page",
        "passed, floating output",
        "passed, all",
        "wrong without an error",
    )
    content = {
        name: (name, "yes" if name in known else "", _share(floats[name]), _share(count), str(count[WRONG]))
        for name, count in counts.items()
    }
    text = "\n".join(lines) + "\n" + document.table(header, content)
    print(text)
    if not arguments.operators:
        document.write("node-tests", text)
    return int(everything[WRONG] > 0)


def _share(count: Counter[str]) -> str:
    return f"{count[PASSED]}/{count.total()}" if count.total() else ""


if __name__ == "__main__":
    sys.exit(main())
