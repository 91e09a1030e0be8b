"""Static int8 quantisation of an ONNX file with ONNX Runtime, in the format of quantise and dequantise nodes (QDQ)."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def quantise(model: Path, target: Path, inputs: NDArray[np.float32]) -> None:
    """Write ``model`` with int8 weights per channel and int8 activations to ``target``.

    ``inputs`` (n, c, h, w), as the model receives them, set the ranges of the activations (minimum and maximum).
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[NDArray[np.float32]] = iter(np.split(inputs, range(8, len(inputs), 8)))

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"image": batch}

    # it advises to do what the next lines do
    logging.getLogger().addFilter(_silence)
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(target),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        logging.getLogger().removeFilter(_silence)


def _silence(record: logging.LogRecord) -> bool:
    return "pre-processing" not in record.getMessage()
