"""``python -m CTSynthesisLib.workbench``: read the files, start the server, open the browser."""

from __future__ import annotations

import argparse
import sys

from .. import RESOURCES
from ..errors import SynthesisFailed, UnusableInput
from ..files import read_segmentation, read_volume


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m CTSynthesisLib.workbench", description="Paint, generate and judge in a browser.")
    parser.add_argument("segmentation", nargs="?", default=str(RESOURCES / "Samples" / "thorax.seg.nrrd"), metavar="SEGMENTATION",
                        help="segmentation to begin with (default: the bundled sample)")  # fmt: skip
    parser.add_argument("--ct", help="the CT that the segmentation was made on, to paint on and to compare with")
    parser.add_argument("--model", default="default", help="name of a model, or its file")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this computer only)")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    options = parser.parse_args(arguments)
    try:
        labelmap = read_segmentation(options.segmentation)
        ct = read_volume(options.ct) if options.ct else None
        try:
            from .app import Workbench
        except ModuleNotFoundError as error:
            raise SynthesisFailed(
                f"The package '{error.name}' is missing; install the workbench's with: pip install 'ctsynthesis[workbench]'"
            ) from error
        if options.host not in ("127.0.0.1", "localhost", "::1"):
            print(
                f"Anyone who can reach {options.host}:{options.port} can see and change what is shown: there is no password. Prefer"
                f" 127.0.0.1 with an SSH tunnel (ssh -L {options.port}:127.0.0.1:{options.port}).",
                file=sys.stderr,
            )
        workbench = Workbench(labelmap, ct, model=options.model)
    except (UnusableInput, SynthesisFailed) as error:
        sys.exit(f"workbench: {error}")
    print(f"http://{options.host}:{options.port}/  (end with Ctrl+C)", flush=True)
    try:
        workbench.server.start(
            host=options.host, port=options.port, open_browser=not options.no_browser, show_connection_info=False, timeout=0
        )
    finally:
        workbench.close()


if __name__ == "__main__":
    main()
