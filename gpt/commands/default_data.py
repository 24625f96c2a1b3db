"""The default dataset, prepared when it is first needed."""

from gpt.commands.train_options import TrainCommand
from gpt.config import TrainConfig
from gpt.distributed.world import World
from gpt.log import log
from gpt.runs.directory import require_unused

DEFAULT_DATA = TrainConfig.data


def prepare_to_begin(command: TrainCommand, world: World) -> None:
    """See that a new run has a place, and the default dataset its files. Raises InputError if either cannot be."""
    config = command.config
    if (named := config.run_dir) and not command.resumes:
        world.from_main(lambda: require_unused(named))
    if world.is_main and config.data == DEFAULT_DATA and not DEFAULT_DATA.exists() and not command.dry_run:
        prepare_default()
    world.barrier()


def prepare_default() -> None:
    """Prepare the standard library of Python as data/python. Ctrl-C ends it at once, and leaves nothing by half."""
    from gpt.commands.prepare import prepare_recipe, print_dataset
    from gpt.corpus.recipes.python import Python

    log.info(f"preparing {DEFAULT_DATA}: gpt prepare python")
    print_dataset(prepare_recipe(Python(out=DEFAULT_DATA)))
