"""Train a GPT: `python train.py [PRESET] [options]`, the same as `gpt train`."""

import sys

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()
    from gpt.commands.ahead import begin

    begin("train", sys.argv[1:])

from gpt.commands import clean_errors
from gpt.commands.train import main

if __name__ == "__main__":
    with clean_errors():
        sys.exit(main())
