"""Repeated queries of the same images, for ``sanity.determinism``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from auditor import Metric, Table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Classifier, Pixels

REPETITIONS = {"again": "again", "reversed": "in reverse order", "alone": "one image at a time"}
"""Columns and names of the repeated queries."""


def repeated_answers(classifier: Classifier, pixels: Pixels) -> Mapping[str, NDArray[np.float32]]:
    """Return the probabilities (n, k) of each repetition, in the order of the images."""
    import numpy as np

    # copies, because some runtimes reject negative strides
    reverse = slice(None, None, -1)
    return {
        "again": classifier.predict(pixels),
        "reversed": classifier.predict(pixels[reverse].copy())[reverse],
        "alone": np.concatenate([classifier.predict(pixels[i : i + 1]) for i in range(len(pixels))]),
    }


def repetition_table(agreements: Sequence[Metric], differences: Sequence[Metric]) -> Table:
    """Tabulate label agreement and largest difference of each repetition."""
    together = zip(REPETITIONS.values(), agreements, differences, strict=True)
    return Table(
        title="Agreement by repetition",
        columns=["query", "same label", "largest difference of a probability", "n"],
        formats=["text", "percent", "number", "count"],
        rows=[[text, agrees.cell(), difference.value, agrees.n] for text, agrees, difference in together],
    )
