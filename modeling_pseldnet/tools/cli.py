"""What the command-line programs share: errors are one line on standard error and exit status 2."""

import argparse
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {first_line(message)}\n")


def first_line(error: Exception | str) -> str:
    """The first line of a message, without its full stop; the kind of an error that has no message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__
