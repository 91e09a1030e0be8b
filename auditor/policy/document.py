"""A policy as one JSON document: its digest identifies the policy, and the policy can be made from it again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from auditor.policy.rules import Policy, PolicyFile, policy_of
from auditor.toml import decode

_KEYS = {"but": "except"}
"""Fields of an invalidation that have another key in a file."""


def restore_policy(document: Mapping[str, Any], name: str, today: dt.date) -> Policy:
    """Make the policy of a document (``Policy.document``), to judge as on the day ``today``.

    Raises:
        BadInput: if the document is not one of a policy.
    """
    content: dict[str, Any] = {key: value for key, value in document.items() if value is not None}
    content["void"] = [{_KEYS.get(key, key): value for key, value in void.items()} for void in content["void"]]
    content["accepted"] = [
        {**entry, "expires": dt.date.fromisoformat(entry["expires"])} for entry in content["accepted"]
    ]
    return policy_of(decode(PolicyFile, content, f"policy {name}"), name, today)
