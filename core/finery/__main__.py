"""`python -m finery`: the command, by the Python that has it installed."""

from finery.cli import main

main()
