"""What people see and hear: a first run on the terminal, and the page of the program `pseldnet-demo`."""

from collections.abc import Sequence

from modeling_pseldnet.tools.cli import program


@program("pseldnet-demo")
def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `pseldnet-demo`, which is `app.main`; says what to install where that cannot be imported."""
    from spaces_demo.app import main

    return main(arguments)
