"""`python -m vpjax`, the same as the command `vpjax`."""

import sys

from vpjax.cli import main

sys.exit(main())
