"""A process of a training in several: `python -m finery_trl.launched ORDER`, see `launch`."""

import sys
from pathlib import Path

from finery_trl.launch import main

if __name__ == "__main__":
    main(Path(sys.argv[1]))
