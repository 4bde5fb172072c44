"""`python -m credits_fast.cli`, where the program itself is not on PATH."""

import sys

from credits_fast.cli import main

if __name__ == "__main__":
    sys.exit(main())
