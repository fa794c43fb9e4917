"""`python -m finery`: the command, by the Python that has it installed."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the working directory, which `finery` and workers don't import from either

from finery.cli import main

main()
