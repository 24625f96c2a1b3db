"""Write a corpus as a dataset: `python data/prepare.py files --input notes --name mine`, as `gpt prepare` does."""

import sys

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()

from gpt.commands import clean_errors
from gpt.commands.prepare import main

if __name__ == "__main__":
    with clean_errors():
        sys.exit(main(sys.argv[1:]))
