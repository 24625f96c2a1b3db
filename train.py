"""Train a GPT: `python train.py [PRESET] [options]`; without arguments, a small one on Python's standard library."""

import sys
from pathlib import Path

from gpt.cli import dry_run_text, fit_to_dataset, parse_train, run_recipe, sentences
from gpt.device import choose_device
from gpt.run import open_run, require_unused
from gpt.tokens.shards import open_dataset
from gpt.training.initial import load_initial_weights, new_model, require_tokenizer
from gpt.training.progress import ProgressDisplay
from gpt.training.report import report
from gpt.training.signals import SAVED_BUT_NOT_FINISHED
from gpt.training.trainer import Trainer

DEFAULT_DATA = Path("data/python")
DEFAULT_RECIPE = Path(__file__).parent / "data" / "python.py"


def main(arguments: list[str]) -> int:
    command, reason = parse_train(arguments)
    config = command.settings
    device = choose_device(config.device)
    print(f"{reason}; device: {device}")
    if config.run and not command.resume:
        require_unused(config.run)

    if config.data == DEFAULT_DATA and not DEFAULT_DATA.exists() and not command.dry_run:
        run_recipe(DEFAULT_RECIPE, DEFAULT_DATA)
    if config.data.exists() or not command.dry_run:
        dataset = open_dataset(config.data)
        config = fit_to_dataset(config, dataset)
    if command.dry_run:
        print(dry_run_text(config))
        return 0

    require_tokenizer(config, dataset, command.resume)
    run = open_run(config, dataset.tokenizer, command.resume)
    model = new_model(config, device)
    trainer = Trainer(config, model, dataset, run, device)
    if not (command.resume and trainer.resume()):
        load_initial_weights(model, config)
    print(f"run: {run}, {model.parameter_count():,} parameters, from step {trainer.step:,} to {config.steps:,}")

    finished = trainer.fit(ProgressDisplay(config.steps))
    if not finished:
        print(f"stopped after step {trainer.step:,}, saved; go on with: python train.py --run {run} --resume")
        return SAVED_BUT_NOT_FINISHED
    report(trainer)
    return 0


if __name__ == "__main__":
    with sentences():
        sys.exit(main(sys.argv[1:]))
