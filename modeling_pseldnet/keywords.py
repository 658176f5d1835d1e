"""What messages say of unknown keyword arguments, of errors of other libraries, of many names, and of numbers."""

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from huggingface_hub.errors import StrictDataclassError


def refuse_unknown(given: Iterable[str], known: Iterable[str], function: str) -> None:
    """Refuse leftover keyword arguments, so that none is silently ignored.

    Args:
        given: names of the arguments left over once the known ones are taken.
        known: the known names, for a hint.
        function: what the arguments were passed to.

    Raises:
        TypeError: any are left over; the message names the first and suggests a known one.
    """
    known = list(known)
    for name in given:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"it accepts {', '.join(known)}"
        raise TypeError(f"{function} got an unknown argument: {name}; {hint}")


def refuse_misspelt(given: Iterable[str], known: Collection[str], owner: type) -> None:
    """Refuse misspelt keyword arguments, which transformers would otherwise keep as attributes.

    Args:
        given: names of the arguments to check.
        known: the known names.
        owner: the class that they were passed to, whose own attributes are not mistakes.

    Raises:
        TypeError: a name looks like a known one; the message gives both.
    """
    for name in given:
        near = get_close_matches(name, known, 1, 0.8)
        if near and name not in known and not hasattr(owner, name):
            raise TypeError(f"{owner.__name__} got an unknown argument: {name}; did you mean {near[0]}?")


def in_one_line(error: Exception) -> str:
    """Return an error's message in one line, without the check that a strict dataclass names before it."""
    told = error.__cause__ or error if isinstance(error, StrictDataclassError) else error
    return " ".join(str(told).split())


def first_few(names: Iterable[str], most: int = 3) -> str:
    """Return the first names of a list, with an ellipsis if there are more."""
    names = list(names)
    return ", ".join([*names[:most], *["…"] * (len(names) > most)])


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('s') else 's'}"
