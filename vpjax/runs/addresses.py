"""Where runs lie: a folder, a file, or a name on the Hugging Face hub."""

import os
from pathlib import Path

from vpjax.core.files import local_folder
from vpjax.weights import hub


def run_folder(where: str | os.PathLike) -> Path:
    """Return the folder of a run on this machine; one of the hub is fetched into its cache.

    Args:
        where: a folder, a file, or a name of the hub ("mylab/birds", "hf://mylab/birds@v2").

    Raises:
        UserError: for another address, or a name of the hub that cannot be fetched.
    """
    text = os.fspath(where)
    if Path(text).expanduser().exists() or not is_on_hub(text):
        return local_folder(text)
    return Path(hub.weights_in(text)).parent


def is_on_hub(where: str) -> bool:
    """Return whether a text is a name of the hub rather than a path.

    "mylab/birds" is a path where there is a folder mylab, as a mistake in it is more likely then.
    """
    name = hub.name_of(where)
    return bool(name) and (name != where or not Path(where).parent.is_dir())
