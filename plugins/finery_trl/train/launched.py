"""A process of a training in several: `python -m finery_trl.train.launched ORDER`, see `launch`."""

import sys
from pathlib import Path

from finery_trl.train.launch import main

if __name__ == "__main__":
    main(Path(sys.argv[1]))
