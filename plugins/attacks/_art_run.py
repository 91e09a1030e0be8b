"""Run an attack of ART on one image at a time, each with separate random numbers."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from auditor.probes.random_state import kept_random_state

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Pixels, Randomness

NORMS: Mapping[str, float] = {"linf": math.inf, "l2": 2, "l1": 1}

_PROBABILITIES = frozenset({"NewtonFool"})
"""White-box attacks that require probabilities; the others take logits."""

_OWN_TARGETS = frozenset({"SaliencyMapMethod"})
"""Attacks that read a label as the target; without one they draw a target at random."""


def run(
    attack: type[Any],
    parameters: Mapping[str, Any],
    classifier: Classifier,
    batch: Batch,
    rng: Randomness,
    *,
    gradients: bool,
) -> Pixels:
    """Return what the attack makes of each image, (n, c, h, w).

    With ``gradients`` it sees the differentiable copy, else the probabilities of the deployed model.
    """
    import numpy as np

    from auditor.algorithms.art import ArtClassifier, ArtCopy

    softmax = attack.__name__ in _PROBABILITIES
    estimator = ArtCopy(classifier, softmax=softmax) if gradients else ArtClassifier(classifier)
    results = batch.pixels.copy()
    for i, image_id in enumerate(batch.ids):
        with kept_random_state(int(rng(image_id, "art").integers(2**31))), _quiet():
            label = np.eye(classifier.n_classes, dtype=np.float32)[batch.labels[i : i + 1]]
            target = None if attack.__name__ in _OWN_TARGETS else label
            found = attack(estimator, **_accepted(attack, parameters)).generate(batch.pixels[i : i + 1].copy(), target)
        results[i] = np.asarray(found, dtype=np.float32)[0]
    return results


def check(attack: type[Any], parameters: Mapping[str, Any]) -> None:
    """Raise ValueError if ART refuses the parameters; no model is needed for that."""
    trial = object.__new__(attack)
    signature = inspect.signature(attack.__init__).parameters
    defaults = {name: each.default for name, each in signature.items() if each.default is not inspect.Parameter.empty}
    for name, value in {**defaults, **_accepted(attack, parameters)}.items():
        # some are read-only properties of a hidden attribute
        trial.__dict__[name] = trial.__dict__[f"_{name}"] = value
    try:
        trial._check_params()
    except (ValueError, TypeError) as error:
        raise ValueError(f"ART's {attack.__name__}: {error}") from None
    except Exception:
        # a check that reads the model; the attack itself repeats it
        return


def accepted_norms(attack: type[Any]) -> Sequence[str]:
    """Return the norms that an attack's own check accepts."""
    accepted = []
    for name, value in NORMS.items():
        with contextlib.suppress(ValueError):
            check(attack, {"norm": value})
            accepted.append(name)
    return tuple(accepted)


def _accepted(attack: type[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Add what every run sets: untargeted, one image at a time, silent."""
    fixed = {"targeted": False, "batch_size": 1, "verbose": False}
    known = inspect.signature(attack.__init__).parameters
    return {**{name: value for name, value in fixed.items() if name in known}, **parameters}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings, log lines and progress bars of ART."""
    import numpy as np

    logger = logging.getLogger("art")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
