"""Run the command ``python -m kpflow_sklearn``."""

import sys

from kpflow_sklearn._cli import main

if __name__ == "__main__":
    sys.exit(main())
