"""A classifier that forwards to another one: subclasses override what they change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Pixels
    from auditor.model.artefact import Artefact
    from auditor.model.classifier import Classifier
    from auditor.model.deployed import Calls
    from auditor.model.preprocessing import InputTransform
    from auditor.model.scores import OutputDecoder, Outputs


class Wrapper:
    """Forward everything of the ``Classifier`` protocol to ``inner``; passes are counted there."""

    def __init__(self, inner: Classifier) -> None:
        """``inner`` is the classifier to forward to."""
        self.inner = inner
        self.batch_size = inner.batch_size

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return self.inner.n_classes

    @property
    def named_classes(self) -> Sequence[str] | None:
        """Class names; None if they are not known."""
        return self.inner.named_classes

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class indices if the model has no names."""
        return tuple(self.named_classes or map(str, range(self.n_classes)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, height, width) of an image, or (features,) of tabular data."""
        return self.inner.shape

    @property
    def input_kind(self) -> Literal["images", "rows"]:
        """What the model takes: images or tabular data."""
        return self.inner.input_kind

    @property
    def outputs(self) -> Outputs:
        """Whether the scores are logits or probabilities."""
        return self.decoder.outputs

    @property
    def access(self) -> Literal["white-box", "black-box"]:
        """White-box while a verified differentiable copy exists."""
        return self.inner.access

    @property
    def device(self) -> str:
        """Device of the copy."""
        return self.inner.device

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model file accepts; None for any."""
        return self.inner.fixed_batch

    @property
    def calls(self) -> Calls:
        """Number of images passed forward and backward."""
        return self.inner.calls

    @property
    def preprocessing(self) -> InputTransform:
        """From pixels in [0, 1] to the input of the model."""
        return self.inner.preprocessing

    @property
    def artefact(self) -> Artefact:
        """The opened model file."""
        return self.inner.artefact

    @property
    def decoder(self) -> OutputDecoder:
        """From the raw output of the model to scores."""
        return self.inner.decoder

    @property
    def copy(self) -> torch.nn.Module | None:
        """The differentiable copy; None for a black box."""
        return self.inner.copy

    @property
    def path(self) -> str:
        """The model file, as shown in the report."""
        return self.inner.path

    @property
    def sha256(self) -> str:
        """Digest of the model file."""
        return self.inner.sha256

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Return class probabilities (n, k)."""
        return self.inner.predict(images)

    def scores(self, images: Pixels) -> NDArray[np.float32]:
        """Return the scores (n, k) behind ``predict``; a wrapper that changes ``predict`` overrides it."""
        return self.inner.scores(images)

    def log_probabilities(self, images: Pixels) -> NDArray[np.float32]:
        """Return the logarithms of ``predict`` (n, k); a wrapper that changes ``predict`` overrides it."""
        return self.inner.log_probabilities(images)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, k) under autograd."""
        return self.inner.logits(images)

    def scaled_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, k) that gradient attacks ascend; a wrapper that changes ``logits`` overrides it."""
        return self.inner.scaled_logits(images)

    def tensor(self, images: Pixels) -> torch.Tensor:
        """Copy pixels to the device."""
        return self.inner.tensor(images)

    def gradient(self, images: Pixels) -> torch.Tensor:
        """Return the gradient of the margin, (n, c, h, w)."""
        return self.inner.gradient(images)

    def compare(self, images: Pixels) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return per image the largest difference between copy and deployed model, and whether labels agree."""
        return self.inner.compare(images)

    def with_preprocessing(self, preprocessing: InputTransform) -> Classifier:
        """Return the wrapped model with another preprocessing, without this wrapper."""
        return self.inner.with_preprocessing(preprocessing)
