"""The handwritten digits of scikit-learn, and the training of small networks on them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Labelled = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (n, 8, 8) and their labels (n,)."""


def halves(test_share: float, seed: int) -> tuple[Labelled, Labelled]:
    """Return the training and the test images, split at random with equal shares of each digit."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # 17 grey levels, 0 to 16
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target.astype(np.int64), test_size=test_share, stratify=digits.target, random_state=seed
    )
    return (x_train, y_train), (x_test, y_test)


def fit(
    network: Callable[[], nn.Module],
    x: torch.Tensor,
    labels: NDArray[np.int64],
    *,
    seed: int,
    epochs: int,
    batch: int,
    learning_rate: float,
) -> nn.Module:
    """Create the network and train it with cross-entropy by Adam, its rate falling to zero along a cosine.

    ``x`` is the network's input, (n, 1, 8, 8). The caller's random state and number of threads are restored.
    """
    threads = torch.get_num_threads()
    # for so small a network threads cost more than they gain, and one thread gives the same weights on every machine
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = network()
        y = torch.from_numpy(labels)
        optimiser = torch.optim.Adam(model.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs)
        model.train()
        for _ in range(epochs):
            for rows in torch.randperm(len(x)).split(batch):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimiser.step()
            schedule.step()
    torch.set_num_threads(threads)
    return model.eval()
