"""`python -m vpjax`, the same as the command `vpjax`."""

from vpjax.cli import script

if __name__ == "__main__":
    script()
