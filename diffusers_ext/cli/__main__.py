"""`python -m diffusers_ext.cli`."""

from . import main

main()
