"""`python -m alto`."""

from .cli import main

main()
