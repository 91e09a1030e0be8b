"""Attacks that look for the smallest perturbation: exact where the answer is known, never better by asking for less."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from auditor import attacks


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_projection_is_the_nearest_point_of_each_image_s_own_ball(norm: str) -> None:
    rng = np.random.default_rng(0)
    delta = torch.from_numpy(rng.normal(size=(5, 1, 2, 3)))
    radius = attacks.length(delta, norm) * torch.tensor([0.0, 0.2, 0.7, 1.0, 2.0], dtype=torch.float64)
    found = attacks.project(delta, norm, radius)
    assert bool((attacks.length(found, norm) <= radius * (1 + 1e-12)).all())
    torch.testing.assert_close(found[3:], delta[3:])
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    for one, wanted, size in zip(found[1:3], delta[1:3], radius[1:3], strict=True):
        flat = wanted.numpy().ravel()
        best = minimize(
            lambda x, flat=flat: ((x - flat) ** 2).sum(), np.zeros(6), method="SLSQP", tol=1e-12,
            constraints={"type": "ineq", "fun": lambda x, size=size: float(size) - np.linalg.norm(x, ord=order)},
        )  # fmt: skip
        assert ((one.numpy().ravel() - flat) ** 2).sum() == pytest.approx(best.fun, rel=1e-3)
