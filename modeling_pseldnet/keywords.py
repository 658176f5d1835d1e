"""Keyword arguments that nobody takes."""

from collections.abc import Iterable
from difflib import get_close_matches


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
