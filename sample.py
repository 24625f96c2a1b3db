"""Continue a text with a trained model: `python sample.py --prompt "def "`; without a prompt, interactively."""

import json
import sys

import tyro

from gpt.cli import SampleCommand, program_name, sentences
from gpt.device import choose_device
from gpt.generation.repl import interact
from gpt.generation.text import continue_text
from gpt.run import LoadedRun, load_run, newest_run


def main(arguments: list[str]) -> None:
    command = tyro.cli(SampleCommand, args=arguments, prog=program_name())
    prompt = command.read_prompt()
    if prompt is None:
        command.require_interactive()
    run = load_run(command.run or newest_run(with_checkpoint=True), choose_device(command.device), say=complain)
    if prompt is None:
        interact(run.source, run.model, run.tokenizer, command.sampling, command.stop)
    elif command.json:
        print_json(run, prompt, command)
    else:
        print_text(run, prompt, command)


def print_text(run: LoadedRun, prompt: str, command: SampleCommand) -> None:
    """One sample as it is made; several after one another, in order, as soon as each can be."""
    waiting = [""] * command.samples
    done = [False] * command.samples
    turn = 0
    for i, text, result in continue_text(
        run.model, run.tokenizer, prompt, command.sampling, command.samples, command.stop, complain
    ):
        waiting[i] += text
        done[i] = bool(result.finish_reason)
        while turn < command.samples:
            print(waiting[turn], end="", flush=True)
            waiting[turn] = ""
            if not done[turn]:
                break
            print()
            turn += 1
            if turn < command.samples:
                print(f"--- sample {turn + 1} of {command.samples} ---")


def print_json(run: LoadedRun, prompt: str, command: SampleCommand) -> None:
    """One object per sample and line, in order."""
    results = {}
    for i, _, result in continue_text(
        run.model, run.tokenizer, prompt, command.sampling, command.samples, command.stop, complain
    ):
        results[i] = result
    for i in range(command.samples):
        print(json.dumps({"prompt": prompt, **vars(results[i])}))


def complain(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    with sentences():
        main(sys.argv[1:])
