"""The default dataset, prepared when it is first needed."""

import signal
import subprocess
import sys
from pathlib import Path

from gpt.commands.train_options import TrainCommand
from gpt.config import TrainConfig
from gpt.distributed.world import World
from gpt.errors import InputError
from gpt.interrupts import INTERRUPTED
from gpt.log import log
from gpt.runs.directory import require_unused

DEFAULT_DATA = TrainConfig.data
RECIPES = Path(__file__).parents[2] / "data"


def prepare_to_begin(command: TrainCommand, world: World) -> None:
    """See that a new run has a place, and the default dataset its files. Raises InputError if either cannot be."""
    config = command.config
    if (named := config.run_dir) and not command.resumes:
        world.from_main(lambda: require_unused(named))
    if world.is_main and config.data == DEFAULT_DATA and not DEFAULT_DATA.exists() and not command.dry_run:
        run_recipe(RECIPES / "python.py", DEFAULT_DATA)
    world.barrier()


def run_recipe(recipe: Path, out: Path) -> None:
    """Prepare a dataset by its recipe, as a person would. Raises InputError if it fails."""
    log.info(f"preparing {out}: python data/{recipe.name} --out {out}")
    child = subprocess.Popen([sys.executable, str(recipe), "--out", str(out)])
    try:
        code = child.wait()
    except KeyboardInterrupt:  # a terminal sends it to both, others to this one; the child says what became of it
        child.send_signal(signal.SIGINT)
        child.wait()
        sys.exit(INTERRUPTED)
    if code:
        raise InputError(f"{recipe}: could not prepare {out}; see above")
