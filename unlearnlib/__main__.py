"""`python -m unlearnlib`: the same as the `unlearn` command."""

from __future__ import annotations

import sys

from unlearnlib.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
