"""Train only the last layer of a pretrained network: a logistic regression on the inputs of that layer."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.reference_models.common.efficientnet import EfficientNetLite0

_BATCH = 32


@torch.inference_mode()
def features(network: EfficientNetLite0, inputs: torch.Tensor) -> NDArray[np.float32]:
    """Return ``network.features`` (n, d) of normalised images (n, c, h, w), in batches."""
    return np.concatenate([network.features(batch).numpy() for batch in inputs.split(_BATCH)])


def fit(
    layer: nn.Linear, inputs: NDArray[np.float32], labels: NDArray[np.int64], *, regularisation: float = 1.0
) -> None:
    """Set the layer to the multinomial logistic regression of ``labels`` (n,) on its ``inputs`` (n, d).

    The penalty is half the sum of the squared weights, the summed loss is weighted with 1 / ``regularisation``. Every
    class must occur.
    """
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / regularisation, max_iter=2000).fit(inputs, labels)
    weight, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # scikit-learn stores the difference of the two logits
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.copy_(torch.from_numpy(bias))
