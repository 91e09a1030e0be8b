"""Which attacks of another library a suite may name."""

from __future__ import annotations

from collections.abc import Mapping

from auditor import BadInput


def require(library: str, package: str) -> None:
    """Raise BadInput, with the command that installs it, if the Python package of a library is not installed."""
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise BadInput(f"the attacks of {library} require the package {package}; install it: pip install {package}")


def refuse(library: str, attack: str, excluded: Mapping[str, str], page: str) -> None:
    """Raise BadInput, with the reason, for an attack that cannot audit an image classifier.

    Args:
        library: the library in the genitive.
        attack: name of the attack.
        excluded: the reasons by attack.
        page: the page of docs/reference that lists the attacks that run.
    """
    if reason := excluded.get(attack):
        raise BadInput(f"{library} {attack} {reason}; docs/reference/{page} lists the attacks that run")
