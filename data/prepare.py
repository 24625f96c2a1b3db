"""Write a corpus as a dataset: `python data/prepare.py files --input notes --name mine`, as `gpt prepare` does."""

import sys

try:
    from gpt.interrupts import end_quietly_while_loading
except ModuleNotFoundError:
    sys.exit(f"error: gpt is not installed for {sys.executable}: activate its environment (source .venv/bin/activate)")

if __name__ == "__main__":
    end_quietly_while_loading()

from gpt.commands import clean_errors
from gpt.commands.prepare import main

if __name__ == "__main__":
    with clean_errors():
        sys.exit(main(sys.argv[1:]))
