"""`python -m phiforge` is `phiforge`."""

from phiforge.cli import main

main()
