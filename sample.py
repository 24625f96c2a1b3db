"""Continue a text with a trained model: `python sample.py --prompt "def "`; without a prompt, interactively."""

import sys

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()

import tyro

from gpt.cli import complain, program_name, sentences
from gpt.cli.sample import SampleCommand, require_known
from gpt.device import choose_device
from gpt.generation.repl import interact
from gpt.generation.show import print_json, print_text
from gpt.generation.text import continue_texts, text_engine
from gpt.run import LoadedRun, load_run, newest_run


def main(arguments: list[str]) -> None:
    command = tyro.cli(SampleCommand, args=arguments, prog=program_name())
    prompts = command.read_prompts()
    if prompts is None:
        command.require_interactive()
    device = choose_device(command.device)

    def load(name: str) -> LoadedRun:
        return load_run(name, device, complain, command.dtype, packed=not command.compile)

    run = load(command.run or str(newest_run(with_checkpoint=True)))
    if prompts is None:
        interact(run, command.sampling, command.stop, load, command.allow_commands)
        return
    require_known(prompts, run.tokenizer)
    batch = min(command.batch, len(prompts) * command.samples)
    engine = text_engine(run.model, run.tokenizer, batch, command.compile, complain)
    events = continue_texts(
        engine,
        run.tokenizer,
        prompts,
        command.sampling,
        command.samples,
        command.stop,
        alternatives=command.logprobs,
        echo=command.echo and command.logprobs is not None,
    )
    if command.json:
        print_json(events, scored=command.logprobs is not None, echo=command.echo)
    else:
        print_text(events, len(prompts), command.samples, command.echo)


if __name__ == "__main__":
    with sentences():
        main(sys.argv[1:])
