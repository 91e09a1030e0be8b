"""Change one constant or operator of a module at a time, and count the changes that its tests detect.

    uv run python benchmarks/mutants.py [--each 12] [--seed 0] [--only PART-OF-PATH]

Every mutant runs in a fork of this process, which has imported the libraries but not the auditor. Survivors are printed
with their line: each is a missing test or equivalent to the original.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]
LIBRARIES = ("numpy", "pandas", "torch", "scipy.stats", "sklearn.metrics", "onnx", "onnxruntime", "pyarrow.parquet")
LIBRARIES += ("PIL.Image", "jsonschema", "click.testing", "pytest")
LONGEST = 150
"""Seconds after which a mutant counts as detected: its tests do not end."""

TESTS = {
    "auditor/statistics/intervals.py": "statistics cluster",
    "auditor/statistics/tests.py": "statistics cluster",
    "auditor/statistics/calibration.py": "statistics bias",
    "auditor/statistics/metrics.py": "statistics cluster",
    "auditor/statistics/roc.py": "statistics",
    "auditor/statistics/bootstrap.py": "statistics cluster",
    "auditor/statistics/cluster.py": "statistics cluster",
    "auditor/statistics/unit_counts.py": "statistics cluster gaps_over_units",
    "plugins/performance/calibration.py": "known_answers conclusions bias",
    "plugins/bias/groups.py": "bias gaps group_gaps gaps_over_units",
    "auditor/probes/gap_statistics.py": "gaps gaps_over_units",
    "auditor/data/labels.py": "labels data",
    "auditor/algorithms/corruptions.py": "corruptions",
    "auditor/algorithms/balls.py": "attacks distances minimum_norm",
    "auditor/algorithms/losses.py": "attacks minimum_norm",
    "auditor/algorithms/pgd.py": "attacks",
    "auditor/algorithms/apgd.py": "attacks",
    "auditor/algorithms/fab.py": "attacks",
    "auditor/algorithms/square.py": "attacks",
    "plugins/attacks/fgsm.py": "attacks known_answers",
    "plugins/attacks/_deepfool_search.py": "minimum_norm",
    "plugins/attacks/_minimum_norm_search.py": "minimum_norm",
    "auditor/algorithms/bounds/activations.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/affine.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/ball.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/bilinear.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/branching.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/max_pool.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/prover.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/ranges.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/rounding.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/slopes.py": "bound_methods bounds certified",
    "auditor/algorithms/bounds/softmax.py": "bound_methods bounds certified",
    "auditor/policy/rules.py": "policy severity acceptance sanity",
    "auditor/policy/verdict.py": "policy severity acceptance sanity",
    "auditor/policy/acceptance.py": "acceptance policy",
}
"""The test files of each module, the most specific one first."""

SWAPS: dict[type[Any], type[Any]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line, a description and the source of every mutant."""
    count = sum(1 for _ in _nodes(ast.parse(source)))
    for number in range(count):
        tree = ast.parse(source)
        node, place = list(_nodes(tree))[number]
        yield node.lineno, _change(node, place), ast.unparse(tree)


def _nodes(tree: ast.AST) -> Iterator[tuple[Any, str]]:
    decorators = [each for node in ast.walk(tree) for each in getattr(node, "decorator_list", [])]
    # whether a dataclass is frozen changes no result
    skipped = {id(node) for each in decorators for node in ast.walk(each)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            # a union of types is no arithmetic, and text is not subtracted
            yield node, "op"
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            yield node, "ops"
        elif isinstance(node, ast.Constant) and type(node.value) in {int, float, bool}:
            yield node, "value"


def _change(node: Any, place: str) -> str:
    before = ast.unparse(node)
    if place == "op":
        node.op = SWAPS[type(node.op)]()
    elif place == "ops":
        node.ops[0] = SWAPS[type(node.ops[0])]()
    elif isinstance(node.value, bool):
        node.value = not node.value
    elif isinstance(node.value, int):
        node.value += 1
    else:
        node.value = node.value * 1.5 + (node.value == 0)
    return f"{before} -> {ast.unparse(node)}"


class Replaced(SourceFileLoader):
    """Loads a module from another source."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._source, self.path, "exec", dont_inherit=True)


class Finder:
    """Finds the mutated module before any other finder does."""

    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        loader = Replaced(name, str(self._path), self._source)
        return importlib.util.spec_from_file_location(name, self._path, loader=loader)


def is_detected(file: str, source: str, tests: list[str], longest: float = LONGEST) -> bool:
    """Whether a test fails with this source of the file."""
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        name = file.removesuffix(".py").replace("/", ".")
        name = name if name.startswith("auditor") else f"auditor.{name}"
        sys.meta_path.insert(0, Finder(name, ROOT / file, source))
        import pytest

        os._exit(int(pytest.main(["-q", "-x", "-n0", "-p", "no:cacheprovider", *tests])))
    end = time.monotonic() + longest
    while time.monotonic() < end:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--each", type=int, default=12, help="mutants of a file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    for library in LIBRARIES:
        importlib.import_module(library)
    found = total = 0
    for file, names in TESTS.items():
        if arguments.only not in file:
            continue
        tests = [f"tests/test_{name}.py" for name in names.split()]
        source = (ROOT / file).read_text(encoding="utf-8")
        if is_detected(file, source, tests, longest=4 * LONGEST):
            sys.exit(f"{file}: its tests fail without a mutation")
        every = list(mutants(source))
        chosen = random.Random(arguments.seed).sample(every, min(arguments.each, len(every)))
        detected = 0
        for line, text, mutated in sorted(chosen):
            if is_detected(file, mutated, tests):
                detected += 1
            else:
                print(f"    survived: {file}:{line}: {text}", flush=True)
        print(f"{file}: {detected} of {len(chosen)} detected, of {len(every)} possible", flush=True)
        found, total = found + detected, total + len(chosen)
    print(f"{found} of {total} detected ({100 * found / max(1, total):.0f} %)")


if __name__ == "__main__":
    main()
