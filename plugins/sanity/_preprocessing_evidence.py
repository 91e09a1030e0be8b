"""Statement, table and reason for doubt of ``sanity.preprocessing``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from auditor import Metric, Records, Table
from auditor.findings.formatting import percent
from auditor.probes.class_orders import fitting_order, other_orders
from auditor.probes.preprocessing_comparison import Alternative, equally_good, objection

if TYPE_CHECKING:
    from auditor.findings.evidence import Cell


def doubt_about(best: Alternative, records: Records) -> str:
    """Say why a better alternative is not accused: it explains the data no better than guessing or a class order."""
    if objected := objection(best, records.frame):
        return f"no common preprocessing explains the data: with the preset {best.name}, {objected}"
    used = records.frame[records.frame["preprocessing"] == ""]
    labels, predictions = used["label"].to_numpy(), used["prediction"].to_numpy()
    order = fitting_order(
        other_orders(labels, predictions, list(used["image_id"]), records.classes, units=used.get("unit"))
    )
    if order is None or not order.explains_better(best.accuracy):
        return ""
    return (
        f"another order of the classes ({order.name}) explains the data at least as well as the preset {best.name}:"
        f" accuracy {percent(order.accuracy)} against {percent(best.accuracy)}; see sanity.labels"
    )


def statement(accuracy: Metric, best: Alternative, alternatives: Sequence[Alternative], doubt: str) -> str:
    """Compare the accuracy in use with that of the ``best`` alternative; ``doubt`` is the result of ``doubt_about``."""
    reading = "No common preprocessing is significantly better than the one in use."
    if best.better:
        reading = "The preprocessing in use is probably not the one used in training."
        others = [other.name for other in equally_good(best, alternatives) if other is not best]
        reading += f" As good within the intervals: {', '.join(others)}." if others else ""
    if doubt:
        reading = f"This does not show that the preprocessing in use is wrong: {doubt}."
    return (
        f"Accuracy {percent(accuracy)} with the preprocessing in use, {percent(best.accuracy)} with the preset"
        f" {best.name} (n = {accuracy.n}; McNemar's exact test, Holm over {len(alternatives)} alternatives:"
        f" p = {best.p_value:.2g}). {reading}"
    )


def table(accuracy: Metric, alternatives: Sequence[Alternative]) -> Table:
    """Compare the preprocessing in use with every alternative, on the same images."""
    rows: list[list[Cell]] = [["in use", accuracy.cell(), None, None, None, accuracy.n]]
    for other in sorted(alternatives, key=lambda other: -(other.accuracy.value or 0.0)):
        cells = [other.only_other, other.only_used, other.p_value, accuracy.n]
        rows.append([other.name, other.accuracy.cell(), *cells])
    return Table(
        title="Accuracy by preprocessing",
        columns=["preprocessing", "accuracy", "correct only with it", "correct only in use", "p (Holm)", "n"],
        formats=["text", "percent", "count", "count", "number", "count"],
        rows=rows,
        caption="p: probability of such an advantage over the preprocessing in use by chance. Size and crop are"
        " unchanged.",
    )
