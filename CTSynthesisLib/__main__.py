"""``python -m CTSynthesisLib``: the command line, as ``ctsynthesis``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
