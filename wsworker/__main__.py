"""python -m wsworker: the same as the program wsworker."""

from wsworker.cli.main import main

main()
