"""One Python function per ONNX operator; importing this package registers all of them."""

from auditor.loading.operators import elementwise, linear, quantised, reduction, resize, shape

__all__ = ["elementwise", "linear", "quantised", "reduction", "resize", "shape"]
