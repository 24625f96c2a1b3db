"""Pickled weights (`.bin`), which are never loaded here, as a pickle can run code: what converts them is told."""

import shlex
from pathlib import Path

_COMMAND = (  # by torch, which loads tensors and refuses code
    "python -c 'import sys; from pathlib import Path; from torch import load; from safetensors.torch import save_file; "
    'd, w = Path(sys.argv[1]), {}; [w.update(load(f, map_location="cpu", weights_only=True)) for f in d.glob("%s")]; '
    'save_file({k: v.clone().contiguous() for k, v in w.items()}, d / "%s", {"format": "pt"})\''
)


def conversion(directory: Path | str, pickled: str, safe: str) -> str:
    """Write the command that converts the files of a directory that the pattern `pickled` finds into the file `safe`.

    It needs torch and safetensors alone.
    """
    return f"{_COMMAND % (pickled, safe)} {shlex.quote(str(directory))}"
