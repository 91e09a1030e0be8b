"""A classifier whose logits are the mean over several passes, for attacks on randomised models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from auditor.model.wrapper import Wrapper

if TYPE_CHECKING:
    import torch

    from auditor.model.classifier import Classifier


class Expectation(Wrapper):
    """A classifier whose logits are the mean over ``repeats`` passes: its gradient is the expected one."""

    def __init__(self, inner: Classifier, repeats: int) -> None:
        """Average ``repeats`` passes of ``inner``."""
        super().__init__(inner)
        self._repeats = repeats

    def scaled_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the mean of the logits (n, k); separate passes, because a model may draw once for a batch."""
        import torch

        return torch.stack([self.inner.scaled_logits(images) for _ in range(self._repeats)]).mean(0)
