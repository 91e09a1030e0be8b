"""What a probe may ask of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from auditor.data.dataset import Pixels
    from auditor.model.artefact import Artefact
    from auditor.model.deployed import Calls
    from auditor.model.preprocessing import InputTransform
    from auditor.model.scores import OutputDecoder, Outputs


class Classifier(Protocol):
    """A classifier: ``predict`` evaluates the deployed model, ``logits`` its differentiable copy.

    ``DeployedModel`` is the one opened from a file; ``Wrapper`` forwards to another classifier.
    """

    batch_size: int
    """Number of images that are evaluated together."""

    @property
    def n_classes(self) -> int:
        """Number of classes."""

    @property
    def named_classes(self) -> Sequence[str] | None:
        """Class names; None if they are not known."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class indices if the model has no names."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, height, width) of an image, or (features,) of tabular data."""

    @property
    def input_kind(self) -> Literal["images", "rows"]:
        """What the model takes: images or tabular data."""

    @property
    def outputs(self) -> Outputs:
        """Whether the scores of the deployed model are logits or probabilities."""

    @property
    def access(self) -> Literal["white-box", "black-box"]:
        """White-box while a verified differentiable copy exists."""

    @property
    def device(self) -> str:
        """Device of the copy: "cpu", "cuda:0", "mps"."""

    @property
    def fixed_batch(self) -> int | None:
        """The only batch size that the model file accepts; None for any."""

    @property
    def calls(self) -> Calls:
        """Number of images passed forward and backward."""

    @property
    def preprocessing(self) -> InputTransform:
        """From pixels in [0, 1] to the input of the model."""

    @property
    def artefact(self) -> Artefact:
        """The opened model file."""

    @property
    def decoder(self) -> OutputDecoder:
        """From the raw output of the model to scores."""

    @property
    def copy(self) -> torch.nn.Module | None:
        """The differentiable copy, from the model's own input to its raw output; None for a black box."""

    @property
    def path(self) -> str:
        """The model file, as shown in the report."""

    @property
    def sha256(self) -> str:
        """Digest of the model file."""

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Return class probabilities (n, k) of pixels (n, c, h, w) in [0, 1], from the deployed model."""

    def scores(self, images: Pixels) -> NDArray[np.float32]:
        """Return the scores (n, k) of the deployed model, of the kind that ``outputs`` names."""

    def log_probabilities(self, images: Pixels) -> NDArray[np.float32]:
        """Return the logarithms of ``predict`` (n, k), which distinguish confidences that float32 rounds to 1."""

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, k) of pixels (n, c, h, w) in [0, 1] under autograd, from the copy; raise NoCopy."""

    def scaled_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, k) that gradient attacks ascend: in a unit independent of the model's confidence."""

    def tensor(self, images: Pixels) -> torch.Tensor:
        """Copy pixels to the device."""

    def gradient(self, images: Pixels) -> torch.Tensor:
        """Return the gradient of the margin (largest minus second largest logit), (n, c, h, w), from the copy."""

    def compare(self, images: Pixels) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return per image the largest difference between copy and deployed model, and whether labels agree."""

    def with_preprocessing(self, preprocessing: InputTransform) -> Classifier:
        """Return the same model with another preprocessing."""
