"""From a model file to a Classifier: the sidecar, the shape of the input, what the output means.

Which file format it is, the plugins in ``auditor.plugins.formats`` know; what follows is the same for all.
"""

from __future__ import annotations

from auditor.model.loading.build import build, resizing
from auditor.model.loading.sidecar import Sidecar, read_sidecar, wanted_output

__all__ = ["Sidecar", "build", "read_sidecar", "resizing", "wanted_output"]
