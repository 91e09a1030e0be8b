"""What people state about a review: owner, reviewer, intended use, limits, data version, sign-off lines."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from auditor.findings.record import ReviewRecord


@dataclass(frozen=True, kw_only=True)
class Review:
    """The table ``[review]`` of a sidecar or a policy. Nothing in it is measured; the report prints it on page one.

    An empty text counts as not stated.
    """

    owner: str = ""
    """Who is responsible for the model."""
    reviewer: str = ""
    """Who decides on the basis of the report."""
    intended_use: str = ""
    """What the model is to be used for."""
    limits: str = ""
    """What it must not be used for, and under which conditions it is not to be trusted."""
    data_version: str = ""
    """Version of the audited data."""
    sign_off: tuple[str, ...] = ()
    """Names or roles; the report has a line for the signature of each."""

    def record(self) -> ReviewRecord:
        """Return what is stated, as recorded in audit.json."""
        stated = {name: value for name, value in asdict(self).items() if value}
        return {**stated, "sign_off": list(self.sign_off)}  # type: ignore[typeddict-item]
