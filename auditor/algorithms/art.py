"""Adapt a classifier to an ART estimator, so that any ART attack or metric runs on it.

This is the only core module that imports ART; plugins import it inside methods. Pixels stay in [0, 1], so ART's ``eps``
is in pixel units.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

with warnings.catch_warnings():
    # at import ART warns about frameworks that are not installed
    warnings.simplefilter("ignore")
    from art.attacks.evasion import FastGradientMethod
    from art.estimators.classification import PyTorchClassifier
    from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierClassLossGradients
    from art.estimators.estimator import LossGradientsMixin, NeuralNetworkMixin

from auditor.algorithms.losses import margin

if TYPE_CHECKING:
    from auditor.data.dataset import Pixels
    from auditor.model.classifier import Classifier


class ArtClassifier(NeuralNetworkMixin, ClassifierClassLossGradients):  # type: ignore[misc]
    """ART estimator: ``predict`` queries the deployed model, gradients come from the differentiable copy.

    The last loss gradient is cached, because steps in several norms use the same one.
    """

    def __init__(self, classifier: Classifier, clip_values: tuple[float, float] | None = (0.0, 1.0)) -> None:
        """Wrap ``classifier``; ART receives its probabilities as predictions."""
        super().__init__(model=classifier, channels_first=True, clip_values=clip_values)
        self._classifier = classifier
        self._nb_classes = classifier.n_classes
        self._cached: tuple[NDArray[Any], NDArray[Any], NDArray[Any]] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self._classifier.shape

    def predict(self, x: NDArray[Any], batch_size: int = 0, **_: Any) -> NDArray[np.float32]:
        """Return probabilities (n, k) of the deployed model; the batch size is the classifier's."""
        del batch_size
        return self._classifier.predict(np.asarray(x, dtype=np.float32))

    def fit(self, x: Any, y: Any, **_: Any) -> None:
        """Raise NotImplementedError: an audited model is never trained."""
        raise NotImplementedError("an audited model is never trained")

    def get_activations(self, x: Any, layer: Any, batch_size: int, framework: bool = False) -> Any:
        """Raise NotImplementedError: only the scores of the deployed model can be queried."""
        raise NotImplementedError("only the scores of the deployed model can be queried, not its layers")

    def compute_loss(self, x: NDArray[Any], y: NDArray[Any], **_: Any) -> NDArray[np.float32]:
        """Return each image's cross-entropy (n,) from the deployed model."""
        scores = self._classifier.log_probabilities(np.asarray(x, dtype=np.float32))
        result: NDArray[np.float32] = -scores[np.arange(len(x)), _indices(y)]
        return result

    def loss_gradient(self, x: NDArray[Any], y: NDArray[Any], **_: Any) -> NDArray[np.float32]:
        """Return the gradient of each image's margin on the copy's scaled logits, (n, c, h, w).

        ART attacks ascend it in place of that of cross-entropy, which is zero in float32 for confident predictions.
        """
        labels = _indices(y)
        if self._cached is not None:
            cached, cached_labels, gradient = self._cached
            if np.array_equal(cached, x) and np.array_equal(cached_labels, labels):
                return gradient.copy()
        import torch

        pixels = self._classifier.tensor(x).requires_grad_()
        targets = torch.from_numpy(labels).to(pixels.device)
        # the sum, not the mean: an image's gradient must not depend on its neighbours in the batch
        loss = margin(self._classifier.scaled_logits(pixels), targets).sum()
        (slope,) = torch.autograd.grad(loss, pixels)
        result: NDArray[np.float32] = slope.cpu().numpy()
        self._cached = (np.array(x), labels, result)
        return result.copy()

    def class_gradient(self, x: NDArray[Any], label: Any = None, **_: Any) -> NDArray[np.float32]:
        """Return gradients of scaled logits: one class per image, (n, 1, c, h, w), or all if ``label`` is None."""
        import torch

        pixels = self._classifier.tensor(x).requires_grad_()
        logits = self._classifier.scaled_logits(pixels)
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


class ArtCopy(PyTorchClassifier):  # type: ignore[misc]
    """ART estimator of the differentiable copy alone: ``predict`` and the gradients are those of its scaled logits.

    Attacks that optimise a function of the scores need both from the same function. What they find is judged on the
    deployed model by the probe.
    """

    def __init__(self, classifier: Classifier, *, softmax: bool = False) -> None:
        """Wrap the copy of ``classifier``; with ``softmax`` the scores are the softmax of the scaled logits."""
        import torch

        class Copy(torch.nn.Module):
            """Scores (n, k) of pixels (n, c, h, w) in [0, 1]."""

            def forward(self, pixels: torch.Tensor) -> torch.Tensor:
                logits = classifier.scaled_logits(pixels.to(classifier.device, torch.float32))
                return logits.softmax(dim=1) if softmax else logits

        super().__init__(
            Copy().eval(),
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=classifier.shape,
            nb_classes=classifier.n_classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if classifier.device.startswith("cuda") else "cpu",
        )

    def predict(self, x: NDArray[Any], batch_size: int = 0, **_: Any) -> NDArray[np.float32]:
        """Return the scores of the copy, (n, k), all images at once."""
        del batch_size
        import torch

        with torch.no_grad():
            scores = self.model(torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)).to(self.device))
        result: NDArray[np.float32] = scores.cpu().numpy()
        return result


@functools.cache
def evasion_attacks() -> Mapping[str, type[Any]]:
    """Return the evasion attacks of the installed ART by the names of their classes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks import evasion
        from art.attacks.attack import EvasionAttack

    found = inspect.getmembers(evasion, lambda each: inspect.isclass(each) and issubclass(each, EvasionAttack))
    return dict(found)


def uses_gradients(attack: type[Any]) -> bool:
    """Whether an attack states that it requires the gradient of the loss or of the classes."""
    return any(required in {ClassGradientsMixin, LossGradientsMixin} for required in attack._estimator_requirements)


def _indices(y: NDArray[Any]) -> NDArray[np.int64]:
    """Convert one-hot rows or class indices to class indices."""
    array = np.asarray(y)
    return (array.argmax(axis=1) if array.ndim == 2 and array.shape[1] > 1 else array.reshape(-1)).astype(np.int64)


def steepest(
    classifier: Classifier, pixels: Pixels, labels: NDArray[np.int64], norm: Literal["linf", "l2"]
) -> NDArray[np.float32]:
    """Return the unit step in ``norm`` that raises the margin most to first order, (n, c, h, w), by ART's FGSM.

    ART takes one unclipped step of length 1. All epsilons of a sweep share that step, so it is cached for the last
    batch.
    """
    for cached_classifier, cached_pixels, cached_norm, step in _STEPS:
        if cached_classifier is classifier and cached_pixels is pixels and cached_norm == norm:
            return step
    estimator = next((e for e in _ESTIMATORS if e.model is classifier), None)
    if estimator is None:
        # unclipped, so that the result minus the image is the step
        estimator = ArtClassifier(classifier, clip_values=None)
        _ESTIMATORS[:] = [estimator]
    attack = FastGradientMethod(
        estimator, norm="inf" if norm == "linf" else 2, eps=1.0, eps_step=1.0, batch_size=len(pixels)
    )
    difference: NDArray[np.float32] = attack.generate(pixels, labels) - pixels
    # adding and subtracting the image leaves float32 rounding errors on the signs -1, 0 and 1
    result = np.rint(difference) if norm == "linf" else difference
    _STEPS[:] = [entry for entry in _STEPS if entry[1] is pixels] + [(classifier, pixels, norm, result)]
    return result


_ESTIMATORS: list[ArtClassifier] = []
_STEPS: list[tuple[Classifier, Pixels, str, NDArray[np.float32]]] = []
