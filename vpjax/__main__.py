"""`python -m vpjax`, the same as the command `vpjax`."""

import os

try:
    from vpjax.cli import script
except KeyboardInterrupt:  # Ctrl-C, before there is anything to stop
    os._exit(130)

if __name__ == "__main__":
    script()
