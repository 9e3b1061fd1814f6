"""`python -m millrace` is the command `millrace`."""

from millrace.cli import main

main()
