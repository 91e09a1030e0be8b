"""Compare the importer with ONNX Runtime at every revision of every operator, with onnx2pytorch as a third opinion.

    uv run --with onnx2pytorch python benchmarks/operator_revisions.py [--verbose] [OPERATOR ...]

The ONNX project's node tests exist for the latest revision of an operator only. Here each of them is declared again at
every earlier revision that ONNX Runtime runs (opset 7 and later): an input that used to be an attribute becomes one,
and what the revision does not know makes the case unusable for it. Expected values are those of ONNX Runtime at that
revision; where the importer differs from them but equals the values of the standard's own test, the case is counted as
"as the standard". onnx2pytorch is optional; it is counted where it is installed. "Wrong without an error" of the
importer must be 0, otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import logging
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import torch
from onnx import helper
from onnx.backend.test.case.node import collect_testcases
from onnx_node_tests import PASSED, REFUSED, WRONG, to_tensor

from auditor.errors import NoCopy
from auditor.onnx.graph import import_onnx

OLDEST = 7
"""ONNX Runtime promises nothing for older opsets."""
STANDARD = "as the standard"
RENAMED = {("Pad", "constant_value"): "value", ("TopK", "K"): "k"}
"""Inputs that were an attribute of another name."""
Arrays = list[np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Case:
    """One node test at one revision, with the values that ONNX Runtime computes."""

    operator: str
    revision: int
    name: str
    model: onnx.ModelProto
    inputs: Arrays
    expected: Arrays
    standard: Arrays


def revisions(operator: str) -> list[int]:
    """Return the opsets, from OLDEST on, that changed an operator; the first is the one valid at OLDEST."""
    schemas = onnx.defs.get_all_schemas_with_history()
    since = sorted({each.since_version for each in schemas if each.name == operator and not each.domain})
    valid = [version for version in since if version <= OLDEST][-1:]
    return [max(version, OLDEST) for version in valid] + [version for version in since if version > OLDEST]


def at_revision(model: onnx.ModelProto, opset: int, inputs: Arrays) -> tuple[onnx.ModelProto, Arrays] | None:
    """Declare a model of one node at another opset; None if the revision cannot express it."""
    model = copy.deepcopy(model)
    (node,) = model.graph.node
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
        latest = onnx.defs.get_schema(node.op_type, model.opset_import[0].version, "")
    except onnx.defs.SchemaError:
        return None
    values = {value.name: array for value, array in zip(model.graph.input, inputs, strict=True)}
    names = [formal.name for formal in schema.inputs]
    variadic = bool(schema.inputs) and schema.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    if not variadic:
        kept = dict(zip((formal.name for formal in latest.inputs), node.input, strict=False))
        for formal, actual in list(kept.items()):
            if actual and formal not in names and actual in values:
                name = RENAMED.get((node.op_type, formal), formal)
                if name not in schema.attributes or values[actual].size == 0:
                    return None
                number = values.pop(actual)
                single = schema.attributes[name].type in (onnx.AttributeProto.INT, onnx.AttributeProto.FLOAT)
                node.attribute.append(helper.make_attribute(name, number.item() if single else number.tolist()))
                del kept[formal]
        given = [kept.get(name, "") for name in names]
        del node.input[:]
        node.input.extend(given[: max((i + 1 for i, name in enumerate(given) if name), default=0)])
    if any(attribute.name not in schema.attributes for attribute in node.attribute):
        return None
    if len(node.output) > len(schema.outputs) and not variadic and schema.max_output < len(node.output):
        return None
    remaining = [value for value in model.graph.input if value.name in values]
    del model.graph.input[:]
    model.graph.input.extend(remaining)
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", opset))
    model.ir_version = 8
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return None
    return model, [values[value.name] for value in remaining]


def deployed(model: onnx.ModelProto, inputs: Arrays) -> Arrays | None:
    """Return what ONNX Runtime computes, or None if it refuses the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        results = session.run(None, dict(zip((value.name for value in model.graph.input), inputs, strict=True)))
    except Exception:
        return None
    return results if all(isinstance(each, np.ndarray) for each in results) else None


def cases(tests: Iterable[Any], only: Collection[str] = ()) -> Iterator[Case]:
    """Yield every usable node test, of some operators only, at every revision of its operator."""
    for case in tests:
        model = case.model
        if model is None or len(model.graph.node) != 1 or model.graph.node[0].domain:
            continue
        operator = model.graph.node[0].op_type
        if only and operator not in only:
            continue
        inputs = case.data_sets[0][0]
        if not all(isinstance(each, (np.ndarray, np.generic)) for each in inputs):
            continue
        arrays = [np.asarray(each) for each in inputs]
        if any(array.dtype.kind not in "fiubc" for array in arrays):
            continue
        for revision in revisions(operator):
            declared = at_revision(model, revision, arrays)
            expected = declared and deployed(*declared)
            if declared and expected:
                yield Case(operator, revision, case.name, *declared, expected, case.data_sets[0][1])


def ours(case: Case) -> Callable[[], Any] | None:
    try:
        module = import_onnx(case.model)
    except NoCopy:
        return None
    tensors = [to_tensor(array) for array in case.inputs]
    return lambda: module(*tensors)


def peer(case: Case) -> Callable[[], Any] | None:
    from onnx2pytorch import ConvertModel

    try:
        module = ConvertModel(case.model, experimental=True)
    except Exception:
        return None
    return lambda: module(*[torch.from_numpy(array.copy()) for array in case.inputs])


def judge(case: Case, convert: Callable[[Case], Callable[[], Any] | None]) -> str:
    """Return passed, refused (an error at conversion or when it runs) or wrong."""
    run = convert(case)
    if run is None:
        return REFUSED
    try:
        with torch.no_grad():
            results = run()
    except Exception:
        return REFUSED
    results = results if isinstance(results, (list, tuple)) else [results]
    if agree(results, case.expected):
        return PASSED
    return STANDARD if agree(results, case.standard) else WRONG


def agree(results: Any, expected: Arrays) -> bool:
    return len(results) == len(expected) and all(map(is_close, results, expected))


def is_close(result: Any, expected: np.ndarray[Any, Any]) -> bool:
    """Same shape and values within float32 rounding of a few operations; whole numbers exactly."""
    if not isinstance(result, torch.Tensor):
        return False
    actual = result.detach().double().numpy() if result.dtype.is_floating_point else result.detach().numpy()
    if actual.shape != expected.shape:
        return False
    if expected.dtype.kind in "iub":
        return bool(np.array_equal(actual.astype(np.float64), expected.astype(np.float64)))
    tolerance = 5e-3 if expected.dtype == np.float16 else 1e-3
    expected = expected.astype(np.float64)
    scale = np.abs(expected[np.isfinite(expected)]).max(initial=0.0)
    return bool(np.allclose(actual, expected, rtol=tolerance, atol=tolerance * max(scale, 1e-2) / 10, equal_nan=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("operators", nargs="*")
    parser.add_argument("--verbose", action="store_true", help="print the cases that do not pass")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    converters = {"auditor": ours}
    try:
        import onnx2pytorch  # noqa: F401

        converters["onnx2pytorch"] = peer
    except ImportError:
        print("onnx2pytorch is not installed: the importer is compared with ONNX Runtime only", file=sys.stderr)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    covered: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for case in cases(collect_testcases(), arguments.operators):
        for name, convert in converters.items():
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                verdict = judge(case, convert)
            counts[name][verdict] += 1
            if name == "auditor":
                covered[case.operator, case.revision][verdict] += 1
                if verdict == WRONG or (arguments.verbose and verdict != PASSED):
                    print(f"{verdict}: {case.name} at opset {case.revision}", file=sys.stderr)
    total = sum(counts["auditor"].values())
    passing = sum(1 for count in covered.values() if count[PASSED])
    print(f"ONNX {onnx.__version__}, ONNX Runtime {onnxruntime.__version__}: {total:,} cases,", end=" ")
    operators = len({name for name, _ in covered})
    print(f"{len(covered)} revisions of {operators} operators; {passing} revisions with a passing case")
    for name, count in counts.items():
        print(f"{name:13s}" + "".join(f"{each} {count[each]:5d}  " for each in (PASSED, STANDARD, REFUSED, WRONG)))
    return int(counts["auditor"][WRONG] > 0)


if __name__ == "__main__":
    sys.exit(main())
