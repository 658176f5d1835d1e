"""Mistakes in keyword arguments: those that nobody takes, and values that a dataclass refuses."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from huggingface_hub.errors import StrictDataclassError


def refuse_unknown(given: Iterable[str], known: Iterable[str], function: str) -> None:
    """Refuses keyword arguments, so that none is passed over in silence.

    Args:
        given: the names that are left when all known ones are taken.
        known: those, for a hint.
        function: what they were given to.

    Raises:
        TypeError: there are any; the message names them and what they may have been meant to be.
    """
    known = list(known)
    for name in given:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"{function} got an unknown argument: {name}; {hint}")


def refuse_misspelt(given: Iterable[str], known: Collection[str], owner: type) -> None:
    """Refuses keyword arguments that look like known ones, where transformers keeps all others as attributes.

    Args:
        given: the names of some.
        known: those that are taken.
        owner: the class that they were given to, whose own attributes are no mistakes.

    Raises:
        TypeError: there is one; the message names both.
    """
    for name in given:
        near = get_close_matches(name, known, 1, 0.8)
        if near and name not in known and not hasattr(owner, name):
            raise TypeError(f"{owner.__name__} got an unknown argument: {name}; did you mean {near[0]}?")


def in_one_line(error: Exception) -> str:
    """What was wrong, without which of its checks a strict dataclass names first."""
    told = error.__cause__ or error if isinstance(error, StrictDataclassError) else error
    return " ".join(str(told).split())
