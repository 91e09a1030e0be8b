"""How severe a loss of accuracy is: by its size and by what an attacker must know to cause it.

A change that occurs without an attacker, one found with queries, and one that needs the gradients of the model are
graded apart. A policy states the three scales once, in ``[severity.*]``; rules refer to them by ``knowledge``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from auditor.toml import Text

Grade = Literal["low", "medium", "high", "critical"]
GRADES: tuple[Grade, ...] = ("low", "medium", "high", "critical")

Knowledge = Literal["natural", "black-box", "white-box"]
KNOWLEDGE: tuple[Knowledge, ...] = ("natural", "black-box", "white-box")
"""What it takes to cause the loss, the least first: no attacker, queries, gradients."""


@dataclass(frozen=True, kw_only=True)
class SeverityScale:
    """Severity of a loss of accuracy for one kind of knowledge."""

    at_most_lost: Mapping[Grade, float]
    """Threshold on the loss from the clean accuracy of the same images, 0 to 1, by severity."""
    rationale: Text
    """Why the thresholds are what they are."""
    source: Text
    """Where they come from."""


def check_order(scales: Mapping[Knowledge, SeverityScale]) -> None:
    """Raise ValueError if the same loss is milder when it takes less knowledge to cause it."""
    present = [knowledge for knowledge in KNOWLEDGE if knowledge in scales]
    for easier, harder in pairwise(present):
        for grade in GRADES:
            low, high = (scales[knowledge].at_most_lost.get(grade) for knowledge in (easier, harder))
            if high is not None and (low is None or low > high):
                raise ValueError(
                    f"severity.{easier} reaches {grade} at {low}, severity.{harder} at {high}; a loss that is easier to"
                    " cause must not be milder"
                )
