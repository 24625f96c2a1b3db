"""Continue a text with a trained model: `python sample.py --prompt "def "`; without a prompt, interactively."""

import sys

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()
    from gpt.commands.ahead import begin

    begin("sample", sys.argv[1:])

from gpt.commands import clean_errors
from gpt.commands.sample import main

if __name__ == "__main__":
    with clean_errors():
        main()
