"""vpjax from a checkout; `vpjax` does the same where it is installed.

    python main.py                                                 the first run, offline
    python main.py --config vpt_cifar --workdir DIR                train, or go on training, in DIR
    python main.py eval --workdir DIR                              evaluate what DIR has trained
    python main.py predict --workdir DIR photos/                   classify images
    python main.py compare --config digits_baselines               several runs, one table
    python main.py ablate --config ablate_fusion                   a study: grid, table, picture
    python main.py tune --config vtab:svhn                         choose on val, then read test
    python main.py prune --config digits_prune                     E2VPT: prune, train again
    python main.py report --workdir DIR                            tables and a page of DIR's runs
    python main.py plot --workdir DIR --image 3                    pictures of what DIR has learnt
    python main.py check-data --config vpt_cifar                   examine its data, every image
    srun python main.py --distributed ...                          on several machines

`python main.py --help` lists all commands, `python main.py COMMAND --help` the flags of one. Any
key of a config can be set: --config.method.num_tokens=10.
"""

import os

try:
    from vpjax.cli import script
except KeyboardInterrupt:  # Ctrl-C, before there is anything to stop
    os._exit(130)

if __name__ == "__main__":
    script()
