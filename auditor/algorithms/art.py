"""The classifier as an ART estimator, so that any ART attack or metric runs on it.

The one core module that imports ART; plugins import it inside methods. Pixels stay in [0, 1]: ART's ``eps`` is ours.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    # ART warns at import about frameworks that are not installed
    warnings.simplefilter("ignore")
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification.classifier import ClassifierClassLossGradients

from auditor.algorithms.losses import cross_entropy

if TYPE_CHECKING:
    from auditor.data.dataset import Pixels
    from auditor.model.classifier import Classifier


class ArtClassifier(ClassifierClassLossGradients):  # type: ignore[misc]
    """``predict`` asks the original, gradients come from the copy.

    The last loss gradient is remembered: steps in several norms ask for the same one.
    """

    def __init__(self, classifier: Classifier, clip_values: tuple[float, float] | None = (0.0, 1.0)) -> None:
        """Wrap ``classifier``; its probabilities are what ART sees as predictions."""
        super().__init__(model=classifier, clip_values=clip_values)
        self._classifier = classifier
        self._nb_classes = classifier.n_classes
        self._remembered: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self._classifier.shape

    def predict(self, x: NDArray[Any], batch_size: int = 0, **_: Any) -> NDArray[np.float32]:
        """Probabilities (n, k) from the original; the batch size is the classifier's own."""
        del batch_size
        return self._classifier.predict(np.asarray(x, dtype=np.float32))

    def fit(self, x: Any, y: Any, **_: Any) -> None:
        """An audited model is never trained."""
        raise NotImplementedError("an audited model is never trained")

    def loss_gradient(self, x: NDArray[Any], y: NDArray[Any], **_: Any) -> NDArray[np.float32]:
        """Gradient of each image's cross-entropy on the copy's logits, (n, c, h, w)."""
        labels = _indices(y)
        if self._remembered is not None:
            seen, seen_labels, gradient = self._remembered
            if np.array_equal(seen, x) and np.array_equal(seen_labels, labels):
                return gradient.copy()
        import torch

        pixels = self._classifier.tensor(x).requires_grad_()
        targets = torch.from_numpy(labels).to(pixels.device)
        # the sum, not the mean: an image's gradient must not depend on its neighbours in the batch
        loss = cross_entropy(self._classifier.logits(pixels), targets).sum()
        (slope,) = torch.autograd.grad(loss, pixels)
        result: NDArray[np.float32] = slope.cpu().numpy()
        self._remembered = (np.array(x), labels, result)
        return result.copy()

    def class_gradient(self, x: NDArray[Any], label: Any = None, **_: Any) -> NDArray[np.float32]:
        """Gradient of logits: of one class per image where ``label`` says which, (n, 1, c, h, w), else of all."""
        import torch

        pixels = self._classifier.tensor(x).requires_grad_()
        logits = self._classifier.logits(pixels)
        if label is None:
            columns = [torch.full((len(x),), k) for k in range(self._nb_classes)]
        else:
            columns = [torch.as_tensor(np.broadcast_to(np.asarray(label), len(x)).copy()).long()]
        rows = torch.arange(len(x))
        slopes = [
            torch.autograd.grad(logits[rows, column].sum(), pixels, retain_graph=i + 1 < len(columns))[0]
            for i, column in enumerate(columns)
        ]
        result: NDArray[np.float32] = torch.stack(slopes, dim=1).cpu().numpy()
        return result


def _indices(y: NDArray[Any]) -> NDArray[np.int64]:
    """Class numbers from one-hot rows or from numbers."""
    array = np.asarray(y)
    return (array.argmax(axis=1) if array.ndim == 2 and array.shape[1] > 1 else array.reshape(-1)).astype(np.int64)


def steepest(
    classifier: Classifier, pixels: Pixels, labels: NDArray[np.int64], norm: Literal["linf", "l2"]
) -> NDArray[np.float32]:
    """The step of length 1 in ``norm`` that raises the loss most to first order, (n, c, h, w), by ART's FGSM.

    ART takes one unclipped step of length 1; the step, not the image, is what every epsilon of a sweep shares, so it is
    remembered for the images that were asked about last.
    """
    for seen_classifier, seen_pixels, seen_norm, step in _STEPS:
        if seen_classifier is classifier and seen_pixels is pixels and seen_norm == norm:
            return step
    estimator = next((e for e in _ESTIMATORS if e.model is classifier), None)
    if estimator is None:
        # unclipped, so that the step can be read off the result
        estimator = ArtClassifier(classifier, clip_values=None)
        _ESTIMATORS[:] = [estimator]
    attack = FastGradientMethod(
        estimator, norm="inf" if norm == "linf" else 2, eps=1.0, eps_step=1.0, batch_size=len(pixels)
    )
    found: NDArray[np.float32] = attack.generate(pixels, labels) - pixels
    # adding and subtracting the image leaves float32's rounding on the signs -1, 0 and 1
    result = np.rint(found) if norm == "linf" else found
    _STEPS[:] = [entry for entry in _STEPS if entry[1] is pixels] + [(classifier, pixels, norm, result)]
    return result


_ESTIMATORS: list[ArtClassifier] = []
_STEPS: list[tuple[Classifier, Pixels, str, NDArray[np.float32]]] = []
