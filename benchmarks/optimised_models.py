"""Open files that ONNX Runtime wrote: optimised, quantised or converted to float16.

    uv run python benchmarks/optimised_models.py [NETWORK ...]

Networks of torchvision with random weights, as in torchvision_models.py, exported at opset 17; then static quantisation
(QDQ and QOperator, per tensor), dynamic quantisation, or float16 with some operators left in float32; then saved after
ONNX Runtime's highest optimisation level, the effect of setting `optimized_model_filepath` alone. Writes a table to
docs/reference/models.md.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import document
import onnx
import torch
import torchvision_models as survey
from onnxruntime import quantization
from onnxruntime.transformers import float16

NETWORKS = ("resnet18", "mobilenet_v2", "vit_b_16")
HEADER = ("network and conversion", "operators of ONNX Runtime in it", "access", "same label", "largest difference")


class Calibration(quantization.CalibrationDataReader):
    """A few batches of images."""

    def __init__(self, name: str) -> None:
        self._batches = iter([{"x": survey.pictures(name, 4, seed).numpy()} for seed in range(4)])

    def get_next(self) -> Any:
        return next(self._batches, None)


def static(quantisation_format: str) -> Callable[[str, Path, Path], None]:
    def convert(name: str, source: Path, target: Path) -> None:
        options = {"quant_format": quantization.QuantFormat[quantisation_format]}
        quantization.quantize_static(source, target, Calibration(name), **options)

    return convert


def dynamic(name: str, source: Path, target: Path) -> None:
    del name
    quantization.quantize_dynamic(source, target, weight_type=quantization.QuantType.QUInt8)


def mixed(name: str, source: Path, target: Path) -> None:
    del name
    block = ["Softmax", "LayerNormalization", "GlobalAveragePool", "Resize"]
    model = float16.convert_float_to_float16(onnx.load(source), keep_io_types=True, op_block_list=block)
    onnx.save(model, target)


def unchanged(name: str, source: Path, target: Path) -> None:
    del name
    target.write_bytes(source.read_bytes())


CONVERSIONS: dict[str, Callable[[str, Path, Path], None]] = {
    "none": unchanged,
    "float16 and float32": mixed,
    "int8, QDQ": static("QDQ"),
    "int8, QOperator": static("QOperator"),
    "int8, dynamic": dynamic,
}


OPTIMISE = """
import sys, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.optimized_model_filepath = sys.argv[2]
onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
"""


def optimise(source: Path, target: Path) -> int:
    """Optimise in a separate process, because some models crash it; return its exit status."""
    return subprocess.run([sys.executable, "-c", OPTIMISE, str(source), str(target)], check=False).returncode


def table_row(name: str, conversion: str, source: Path, folder: Path) -> document.Row:
    converted, optimised = folder / "converted.onnx", folder / "optimised.onnx"
    CONVERSIONS[conversion](name, source, converted)
    if status := optimise(converted, optimised):
        return (f"{name}, {conversion}", "-", f"not written: ONNX Runtime itself ended with {status}", "-", "-")
    operators = sorted(n for n in survey.written_operators(onnx.load(optimised)) if n.startswith("com.microsoft"))
    classifier = survey.open_file(optimised)
    classifier.verify(survey.pictures(name, 32, 9).numpy())
    names = [f"{operator.removeprefix('com.microsoft.')}" for operator in operators]
    parity = classifier.parity
    access = classifier.access + (f": {classifier.access_reason}" if classifier.access == "black-box" else "")
    if parity is None or parity.max_abs_difference is None or parity.label_agreement is None:
        return (f"{name}, {conversion}", ", ".join(names), access, "-", "-")
    numbers = (f"{round(32 * parity.label_agreement)} of 32", f"{parity.max_abs_difference:.1g}")
    return (f"{name}, {conversion}", ", ".join(names), access, *numbers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", choices=[[], *survey.NETWORKS])
    networks = parser.parse_args().networks or NETWORKS
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.backends.mha.set_fastpath_enabled(False)
    for name in networks:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "exported.onnx"
            survey.export(survey.make(name), survey.pictures(name, 2, 7), "script-17", source)
            for conversion in CONVERSIONS:
                row = table_row(name, conversion, source, Path(folder))
                print(" | ".join(row), flush=True)
                document.add_row("optimised", HEADER, row)


if __name__ == "__main__":
    main()
