"""SHAP values of single images and rows, by the explainers of the shap package.

shap's blur masker caches by the id of an array, which Python reuses; this masker holds its own array for each image.

shap's loops are interpreted or replaced: compiling them with Numba takes 8 to 11 seconds in every process. What depends
on the size of the image alone is computed once. The values are the same.
"""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from auditor.probes.random_state import kept_random_state

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from auditor import Batch, Classifier
    from auditor.algorithms.masking import Fill

MAX_EXACT = 10
"""Features up to which all sets are evaluated, as in shap.Explainer."""

_ROWS_PER_CALL = 20_000


def image_values(
    classifier: Classifier, batch: Batch, index: int, *, fill: Fill, evaluations: int, batch_size: int
) -> tuple[NDArray[Any], float]:
    """Return the SHAP values of one image, (h, w, c), and the prediction's probability for the covered image."""
    import numpy as np

    from auditor.algorithms.masking import colours

    shap = _library()
    image = np.ascontiguousarray(batch.pixels[index].transpose(1, 2, 0))
    colour = colours(batch.pixels[index : index + 1], fill)[0]
    covered = np.broadcast_to(colour.transpose(1, 2, 0), image.shape)
    predicted = int(batch.predictions[index])

    def probability(images: NDArray[Any]) -> NDArray[Any]:
        pixels = np.asarray(images, dtype=np.float32).transpose(0, 3, 1, 2)
        return classifier.predict(pixels)[:, predicted : predicted + 1].astype(np.float64)

    with _interpreted(), _quick_tree(image.shape):
        # a copy, because shap's maskers keep the previous image
        masker = copy.copy(_masker(image.shape))
        masker.mask_value = covered.flatten()
        # the default link is the compiled function
        explainer = shap.PartitionExplainer(probability, masker, link=shap.links.identity)
        found = explainer(image[None], max_evals=evaluations, batch_size=batch_size, silent=True)
    return np.asarray(found.values)[0, ..., 0], float(np.ravel(found.base_values)[0])


def feature_values(
    classifier: Classifier, batch: Batch, index: int, seed: int, *, evaluations: int
) -> tuple[NDArray[Any], float]:
    """Return the SHAP values of one row, (features,), and the prediction's mean probability over the background."""
    import numpy as np

    from auditor.probes.cells import background

    shap = _library()
    rows = background(classifier)
    row = batch.pixels[index][None]
    predicted, width = int(batch.predictions[index]), row.shape[1]

    def probability(features: NDArray[Any]) -> NDArray[Any]:
        pixels = np.asarray(features, dtype=np.float32)
        return classifier.predict(pixels)[:, predicted].astype(np.float64)

    masker = shap.maskers.Independent(rows, max_samples=len(rows))
    batch_size = max(1, _ROWS_PER_CALL // len(rows))
    if width <= MAX_EXACT:
        explainer = shap.ExactExplainer(probability, masker)
        needed = 2**width
    else:
        explainer = shap.PermutationExplainer(probability, masker, seed=seed)
        # at least one order in both directions
        needed = max(evaluations, 2 * width + 1)
    found = explainer(row, max_evals=needed, batch_size=batch_size, silent=True)
    return np.asarray(found.values)[0], float(np.ravel(found.base_values)[0])


def gradient_values(
    classifier: Classifier, batch: Batch, index: int, seed: int, *, baselines: NDArray[Any], evaluations: int
) -> NDArray[Any]:
    """Return the expected gradients of one image, (c, h, w), or row, (features,), for this ``seed``."""
    import numpy as np
    import torch

    predicted = int(batch.predictions[index])

    class PredictedLogit(torch.nn.Module):
        """The logit of the prediction, (n, 1)."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return classifier.logits(x)[:, predicted : predicted + 1]

    explainer = _library().GradientExplainer(
        PredictedLogit(), classifier.tensor(baselines), batch_size=classifier.batch_size
    )
    # shap seeds NumPy's global generator
    with kept_random_state():
        found = explainer.shap_values(
            classifier.tensor(batch.pixels[index : index + 1]), nsamples=evaluations, rseed=seed
        )
    return np.asarray(found).reshape(batch.pixels.shape[1:])


@lru_cache(maxsize=2)
def _masker(shape: tuple[int, ...]) -> Any:
    """Return shap's masker of images (h, w, c); its tree of regions takes a second at 224 x 224."""
    import numpy as np

    class Masker(_library().maskers.Image):  # type: ignore[misc]
        """Fills with one image, and in a fifth of the time."""

        def __call__(self, mask: NDArray[Any], image: NDArray[Any]) -> tuple[NDArray[Any]]:
            """Return the image, (1, h, w, c), where the mask is true, and the filling elsewhere."""
            filled = np.where(mask, image.ravel(), self.mask_value).astype(image.dtype, copy=False)
            return (filled.reshape(1, *image.shape),)

    return Masker(np.zeros(shape), shape)


@lru_cache(maxsize=2)
def _masks(shape: tuple[int, ...]) -> Any:
    """Return the sparse masks of all regions of images (h, w, c), which take a second at 224 x 224."""
    return _library().utils.make_masks(_masker(shape).clustering)


def lower_credit(node: int, value: float, leaves: int, values: NDArray[Any], tree: NDArray[Any]) -> None:
    """Add to ``values`` of every region its share of those of the regions above it, in proportion to its size.

    As ``shap.explainers._partition.lower_credit``, which visits one region at a time: here all of one generation.

    Args:
        node: the region to begin with, an index of ``values``.
        value: what it gets itself.
        leaves: the number of regions without parts, which come first.
        values: (2 leaves - 1,) or (2 leaves - 1, outputs), changed in place.
        tree: (leaves - 1, 4): both parts of each larger region, a distance, and its number of leaves.
    """
    import numpy as np

    nodes, given = np.array([node]), np.full((1, *values.shape[1:]), value, dtype=values.dtype)
    while len(nodes):
        values[nodes] += given
        above = nodes[nodes >= leaves]
        rows = tree[above - leaves]
        parts = rows[:, :2].astype(np.int64)
        sizes = np.where(parts >= leaves, tree[np.maximum(parts - leaves, 0), 3], 1.0)
        each = (..., *(None,) * (values.ndim - 1))
        shares = values[above][:, None] * sizes[each] / rows[:, 3:4][each]
        nodes, given = parts.ravel(), shares.reshape(-1, *values.shape[1:])


def _library() -> Any:
    """Import shap without its warning about a future matplotlib."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap
    return shap


@contextlib.contextmanager
def _quick_tree(shape: tuple[int, ...]) -> Iterator[None]:
    """Let shap's explainer take the masks of all regions as computed before, and lower credit by generation."""
    from unittest.mock import patch

    module = sys.modules[_library().PartitionExplainer.__module__]
    with (
        patch.object(module, "make_masks", lambda _: _masks(shape)),
        patch.object(module, "lower_credit", lower_credit),
    ):
        yield


@contextlib.contextmanager
def _interpreted() -> Iterator[None]:
    """Replace shap's compiled functions by the Python functions that they are made of, as long as this is open."""
    from unittest.mock import patch

    from numba.core.dispatcher import Dispatcher

    image = _library().maskers._image
    modules = [module for name, module in sys.modules.items() if name.startswith("shap.")]
    names = [(module, name, each) for module in modules for name, each in vars(module).items()]
    with contextlib.ExitStack() as stack:
        for module, name, each in names:
            if isinstance(each, Dispatcher):
                stack.enter_context(patch.object(module, name, each.py_func))
        # numba.typed.List, which only compiled functions take
        stack.enter_context(patch.object(image, "numba", SimpleNamespace(typed=SimpleNamespace(List=list))))
        yield
