"""`python benchmarks/gpu`: runs the command with this folder as the package `gpu`."""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(
        Path(__file__).absolute().parents[1]
    )  # not this folder, whose names are common
    from gpu.command import main

    sys.exit(main())
