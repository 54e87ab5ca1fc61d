"""``python -m mxfast``: the command line where the script is not on the path."""

from mxfast.cli import main

if __name__ == "__main__":
    main()
