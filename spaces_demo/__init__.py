"""What people see and hear: a first run on the terminal, and the page of the program `pseldnet-demo`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `pseldnet-demo`, which is `app.main`; says what to install where that cannot be imported."""
    try:
        from spaces_demo.app import main
    except ModuleNotFoundError as error:
        print(f"pseldnet-demo: error: {error.name} is missing: pip install 'pseldnets[demo]'", file=sys.stderr)
        return 2
    return main(arguments)
