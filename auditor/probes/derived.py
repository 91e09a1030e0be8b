"""Probes that measure nothing themselves and conclude from the records of other probes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor.probes.base import Columns, Probe, Randomness

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class DerivedProbe(Probe):
    """Base of probes that read only the records that ``depends_on`` names; no model calls."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return no columns."""
        del classifier, batch, rng
        return {}
