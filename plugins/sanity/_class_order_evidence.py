"""Statement, tables and reason for doubt of ``sanity.labels``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import Metric, Records, Table
from auditor.findings.formatting import counted, percent

if TYPE_CHECKING:
    from auditor.findings.evidence import Cell
    from auditor.probes.class_orders import ClassOrder
    from auditor.probes.preprocessing_comparison import Alternative


def doubt_about(best: ClassOrder | None, orders: Sequence[ClassOrder], other: Alternative | None) -> str:
    """Say why the ``best`` order is not accused; empty if it is, or if no order is better than the one in use.

    ``other`` is the preprocessing that fits better than the one in use, if any.
    """
    if best is None and (objected := _objected(orders)):
        return (
            f"no order of the classes explains the data: under {objected.name}, accuracy is"
            f" {percent(objected.accuracy)}, but {objected.objection}"
        )
    if best and other and not best.explains_better(other.accuracy):
        return (
            f"another preprocessing ({other.name}) explains the data at least as well as another order of the"
            f" classes: accuracy {percent(other.accuracy)} against {percent(best.accuracy)};"
            " see sanity.preprocessing"
        )
    return ""


def _objected(orders: Sequence[ClassOrder]) -> ClassOrder | None:
    """Return the most accurate order that is significantly better than the one in use, but cannot be the model's."""
    return next((order for order in orders if order.objection and (order.gain.low or 0.0) > 0), None)


def statement(accuracy: Metric, best: ClassOrder, tests: int) -> str:
    """Compare the accuracy in use with that under the ``best`` of ``tests`` other orders."""
    return (
        f"Accuracy {percent(accuracy)} with the class order in use (n = {accuracy.n}), {percent(best.accuracy)} with"
        f" another order: {best.name} (n = {best.accuracy.n}; McNemar's exact test, Holm over"
        f" {counted(tests, 'order')}: p = {best.p_value:.2g})."
    )


def table(accuracy: Metric, orders: Sequence[ClassOrder]) -> Table:
    """Compare the order in use with every other order, on the same images."""
    rows: list[list[Cell]] = [["in use", accuracy.cell(), None, None, None, "", accuracy.n]]
    for order in orders:
        counts = [order.only_other, order.only_used, order.p_value]
        rows.append([order.name, order.accuracy.cell(), *counts, order.objection, order.accuracy.n])
    return Table(
        title="Accuracy by class order",
        columns=["order", "accuracy", "correct only with it", "correct only in use", "p (Holm)", "objection", "n"],
        formats=["text", "percent", "count", "count", "number", "text", "count"],
        rows=rows,
        caption="p: probability of such an advantage over the order in use by chance. The best matching is chosen on"
        " one half of the images and tested on the other.",
    )


def names_table(best: ClassOrder, records: Records) -> Table:
    """List the name of every model output in use and under the order that fits."""
    from auditor.data.class_orders import reordered

    pairs = zip(records.classes, reordered(records.classes, best.mapping), strict=True)
    return Table(
        title="Names of the model's outputs",
        columns=["output", "name in use", "name that fits"],
        formats=["count", "text", "text"],
        rows=[[output, used, fits] for output, (used, fits) in enumerate(pairs)],
    )
