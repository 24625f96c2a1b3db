"""Continue a text with a trained model: `python sample.py --prompt "def "`; without a prompt, interactively."""

import sys

from gpt.interrupts import end_quietly_while_loading

if __name__ == "__main__":
    end_quietly_while_loading()

import tyro

from gpt.apps.render import print_json, print_text
from gpt.apps.repl import interact
from gpt.commands import clean_errors, program_name
from gpt.commands.sample import SampleCommand, require_known
from gpt.device import choose_device
from gpt.generation.completion import complete_texts, text_engine
from gpt.runs.directory import newest_run
from gpt.runs.load import LoadedRun, load_run


def main(arguments: list[str]) -> None:
    command = tyro.cli(SampleCommand, args=arguments, prog=program_name())
    prompts = command.read_prompts()
    if prompts is None:
        command.require_interactive()
    device = choose_device(command.device)

    def load(name: str) -> LoadedRun:
        return load_run(name, device, command.dtype, prepacked=not command.compile)

    run = load(command.run or str(newest_run(with_checkpoint=True)))
    if prompts is None:
        interact(run, command.sampling, command.stop, load, command.allow_commands)
        return
    require_known(prompts, run.tokenizer)
    batch = min(command.batch, len(prompts) * command.samples)
    engine = text_engine(run.model, run.tokenizer, batch, command.compile)
    events = complete_texts(
        engine,
        run.tokenizer,
        prompts,
        command.sampling,
        command.samples,
        command.stop,
        top_logprobs=command.logprobs,
        echo=command.echo and command.logprobs is not None,
    )
    if command.json:
        print_json(events, scored=command.logprobs is not None, echo=command.echo)
    else:
        print_text(events, len(prompts), command.samples, command.echo)


if __name__ == "__main__":
    with clean_errors():
        main(sys.argv[1:])
