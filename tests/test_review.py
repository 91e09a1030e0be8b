"""What people state about a review comes from sidecar and policy, and changes no judgement."""

from __future__ import annotations

from pathlib import Path

from auditor.model.loading.sidecar import parse
from auditor.policy.rules import read_policy

REVIEW = '[review]\nowner = "Team A"\nsign_off = ["Owner", "Reviewer"]\n'


def test_review_is_read_from_the_sidecar(tmp_path: Path) -> None:
    review = parse(REVIEW, "model.onnx.audit.toml", tmp_path).review
    assert review is not None
    assert review.record() == {"owner": "Team A", "sign_off": ["Owner", "Reviewer"]}


def test_review_in_a_policy_is_recorded_and_leaves_the_digest_unchanged(tmp_path: Path) -> None:
    plain, reviewed = tmp_path / "plain.toml", tmp_path / "reviewed.toml"
    plain.write_text('extends = "default"\n', "utf-8")
    reviewed.write_text('extends = "default"\n' + REVIEW, "utf-8")
    first, second = read_policy(str(plain)), read_policy(str(reviewed))
    assert first.sha256 == second.sha256
    assert (first.described([])["review"], second.described([])["review"]) == (
        None,
        {"owner": "Team A", "sign_off": ["Owner", "Reviewer"]},
    )
