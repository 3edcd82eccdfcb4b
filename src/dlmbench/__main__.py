"""`python -m dlmbench`: the command line."""

from dlmbench.cli import main

main()
