"""The units of records: the patient, person or video that each image belongs to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


def unit_codes(frame: pd.DataFrame) -> NDArray[np.int64] | None:
    """Return the unit of each row of records as a number, (n,), to count many subsets fast; None without units."""
    import numpy as np
    import pandas as pd

    return None if "unit" not in frame else np.asarray(pd.factorize(frame["unit"])[0], dtype=np.int64)


def units_by_image(frame: pd.DataFrame, ids: Iterable[str]) -> NDArray[np.object_] | None:
    """Return the unit of each image in ``ids`` from records; None if the data states no units.

    For values with one entry per image. The units of the rows themselves are ``frame.get("unit")``.
    """
    if "unit" not in frame:
        return None
    unit_of = dict(zip(frame["image_id"], frame["unit"], strict=True))
    import numpy as np

    return np.array([unit_of[image_id] for image_id in ids], dtype=object)
