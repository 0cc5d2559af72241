"""python -m wsworker, and the program wsworker: so small that a Ctrl-C can hardly come before it is caught."""

import sys


def main() -> None:
    """Be the program. 130 is 128 + SIGINT, as a shell has it."""
    try:
        from wsworker.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
