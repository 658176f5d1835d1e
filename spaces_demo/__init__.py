"""The demos: a first run in the terminal, and the web page of the program `pseldnet-demo`."""

import argparse
import os
from collections.abc import Sequence

from modeling_pseldnet import DEFAULT_MODEL
from modeling_pseldnet.tools.cli import CommandParser, program, whole_number
from modeling_pseldnet.tools.extras import require


NAME = "pseldnet-demo"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog=NAME,
        description="Serves a page that shows what sounds in recordings, when, and from which direction.",
        epilog="example: pseldnet-demo --model user/pseldnet-htsat --port 7860",
    )
    parser.add_argument(
        "--model", default=os.environ.get("PSELDNET_MODEL", DEFAULT_MODEL),
        help="folder or Hub repository of the page's model; default: $PSELDNET_MODEL, or the small one that comes with"
        " the package",
    )  # fmt: skip
    parser.add_argument("--host", help="address to listen on; default: this machine only")
    parser.add_argument(
        "--port", type=whole_number(1, 65535), help="port to listen on; default: the first free one from 7860"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.add_argument(
        "--trust-remote-code", action="store_true", default=os.environ.get("PSELDNET_TRUST_REMOTE_CODE") == "1",
        help="run the code of models that visitors name, which can do anything on this machine (same as"
        " PSELDNET_TRUST_REMOTE_CODE=1)",
    )  # fmt: skip
    return parser.parse_args(arguments)


@program(NAME)
def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `pseldnet-demo`."""
    options = parse_arguments(arguments)
    require("gradio")
    from spaces_demo.app import serve

    serve(options)
