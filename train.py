"""Train a GPT: `python train.py [PRESET] [options]`; without arguments, a small one on Python's standard library."""

import sys
from contextlib import ExitStack

from gpt.interrupts import end_quietly_while_loading
from gpt.log import log

if __name__ == "__main__":
    end_quietly_while_loading()

from gpt.commands import clean_errors
from gpt.commands.default_data import prepare_to_begin
from gpt.commands.train import TrainCommand, described, dry_run_text, parse_train, settle
from gpt.dataset.dataset import open_dataset
from gpt.device import choose_device
from gpt.distributed.launch import join_world
from gpt.distributed.world import World
from gpt.runs.directory import is_run, open_run
from gpt.tracking.progress import ProgressDisplay
from gpt.training.exact import exact_arithmetic
from gpt.training.resume import load_weights, resume
from gpt.training.signals import SAVED_BUT_NOT_FINISHED, StopRequest
from gpt.training.start import initial_weights, new_model, require_tokenizer
from gpt.training.summary import beginning, report, report_stop
from gpt.training.trainer import Trainer


def main(arguments: list[str]) -> int:
    command, reason = parse_train(arguments)
    settings, device = command.settings, choose_device(command.settings.device)
    with StopRequest() as stop, exact_arithmetic(settings.exact, device), join_world(device, settings.timeout) as world:
        log.info(f"{reason}; {described(settings, world)}")
        return world.exit(train(world.broadcast(command), world, stop))


def train(command: TrainCommand, world: World, stop: StopRequest) -> int:
    """What every process does; `world` knows which of them speaks and writes for all."""
    config, dataset = command.settings, None
    resumes = world.broadcast(command.resume and is_run(config.run_dir))
    prepare_to_begin(command, world)
    if config.data.exists() or not command.dry_run:
        dataset = open_dataset(config.data)
        world.require_same("--data", dataset.fingerprint)
        config = settle(command, dataset, world, resumes)
    if dataset is None or command.dry_run:
        if world.is_main:
            print(dry_run_text(config, dataset, world))
        return 0

    world.from_main(lambda: require_tokenizer(config, dataset, resumes, command.allow_other_data))
    with ExitStack() as stack:
        run = world.from_main(lambda: stack.enter_context(open_run(config, dataset.tokenizer, resumes)))
        model = new_model(config, world.device)
        trainer = Trainer(config, model, dataset, run, world)
        allowed = (command.allow_other_data, command.allow_rate_jump, command.from_step)
        if not (resumes and resume(trainer, *allowed)) and config.init_from != "scratch":
            load_weights(trainer, lambda: initial_weights(config))
        log.info(beginning(trainer))
        finished = trainer.fit(ProgressDisplay(config.steps, quiet=not world.is_main), stop, command.profile)
        if not finished:
            report_stop(trainer)
            return SAVED_BUT_NOT_FINISHED
        if world.is_main:
            report(trainer)
        return 0


if __name__ == "__main__":
    with clean_errors():
        sys.exit(main(sys.argv[1:]))
