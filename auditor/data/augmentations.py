"""Augmentations of MAITE, applied to one image at a time: protocols of MAITE 0.10 for image classification.

An augmentation takes and returns a batch (images, targets, metadata). It keeps the value range and type of the images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.data.dataset import Pixels
from auditor.data.maite import ImageKind, MaiteDataset, as_array, stated_id
from auditor.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Augmentations:
    """Augmentations of MAITE by name, each with one or more severities, and the kind of images they are given."""

    by_name: Mapping[str, Sequence[Any]]
    """Mildest first."""
    kind: ImageKind = field(default_factory=ImageKind)
    metadata: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Further metadata of images by id."""

    def apply(self, name: str, severity: int, pixels: Pixels, target: NDArray[np.float32], image_id: str) -> Pixels:
        """Return one image (c, h, w) in [0, 1] after the augmentation ``name`` of this severity, which counts from 1.

        Raises ValueError for a result that does not follow the protocol.
        """
        augmentation = self.by_name[name][severity - 1]
        about = dict(self.metadata.get(image_id, {"id": image_id}))
        found = augmentation((self.kind.from_pixels(pixels[None]), [target], [about]))
        where = f"augmentation {name}, severity {severity}"
        if not isinstance(found, Sequence) or len(found) != 3 or len(found[0]) != 1:
            raise ValueError(f"{where}: returned {type(found).__name__}; expected (images, targets, metadata)")
        image = as_array(found[0][0])
        if image.ndim == 2 and len(pixels) == 1:
            # some libraries drop the axis of a single channel
            image = image[None]
        if image.shape != pixels.shape:
            raise ValueError(f"{where}: returned an image of shape {image.shape}; expected {pixels.shape}")
        if image.dtype == np.uint8 and self.kind.dtype != "uint8":
            raise ValueError(f"{where}: returned uint8 for an image of floats; expected floats from 0 to 1")
        result: Pixels = image.astype(np.float32) / np.float32(self.kind.white)
        return result


def open_augmentations(given: Mapping[str, Any], dataset: MaiteDataset | None) -> Augmentations:
    """Check augmentations by name: each an augmentation of MAITE, or a sequence of them, mildest first.

    Without a ``dataset`` of MAITE they are given uint8 NumPy arrays. Raises BadInput for other objects.
    """
    expected = "expected an augmentation of MAITE: a callable, with metadata that has an id"
    if not isinstance(given, Mapping):
        raise BadInput(f"augmentations: is a {type(given).__name__}; expected a mapping from names to augmentations")
    by_name = {str(name): list(each) if isinstance(each, list | tuple) else [each] for name, each in given.items()}
    for name, severities in by_name.items():
        if not severities:
            raise BadInput(f"augmentations: {name} is empty; expected at least one augmentation")
        for each in severities:
            if not callable(each):
                raise BadInput(f"augmentations: {name} is a {type(each).__name__}; {expected}")
            try:
                stated_id(each, expected)
            except BadInput as error:
                raise BadInput(f"augmentations: {name}: {error}") from None
    if dataset is None:
        return Augmentations(by_name=by_name)
    return Augmentations(by_name=by_name, kind=dataset.kind, metadata=dataset.metadata)
