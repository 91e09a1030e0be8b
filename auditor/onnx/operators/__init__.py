"""One Python function per ONNX operator; importing this package registers all of them."""

from auditor.onnx.operators import (
    elementwise,
    linear,
    microsoft,
    ml,
    quantised,
    recurrent,
    reduction,
    resize,
    sequences,
    shape,
)

__all__ = [
    "elementwise",
    "linear",
    "microsoft",
    "ml",
    "quantised",
    "recurrent",
    "reduction",
    "resize",
    "sequences",
    "shape",
]
