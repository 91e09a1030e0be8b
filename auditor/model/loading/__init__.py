"""From an opened model file to a classifier: the sidecar, the shape of the input, the meaning of the output.

The plugins in ``auditor.plugins.formats`` open the file; these steps are the same for all formats.
"""

from __future__ import annotations

from auditor.model.loading.build import build, resizing
from auditor.model.loading.input_shape import is_tabular
from auditor.model.loading.sidecar import Sidecar, read_sidecar, wanted_output

__all__ = ["Sidecar", "build", "is_tabular", "read_sidecar", "resizing", "wanted_output"]
