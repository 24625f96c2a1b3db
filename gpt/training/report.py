"""What a finished run has reached, where it lies, and a sample of it."""

from rich.console import Console
from rich.table import Table

from gpt.config import SamplingConfig
from gpt.device import peak_memory
from gpt.evaluation.loss import Evaluation, evaluation_rows
from gpt.generation.text import continue_text, opening_ids
from gpt.run import LoadedRun, load_run
from gpt.training.metrics import draw_losses
from gpt.training.trainer import Trainer

SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 200, 0.6


def report(trainer: Trainer) -> None:
    """Draw loss.png, and print the table and a sample from the best checkpoint."""
    peak = peak_memory(trainer.device)  # before more is loaded for the picture
    try:
        picture = str(draw_losses(trainer.run))
    except OSError as error:  # a full disk, say; the run is finished and saved all the same
        picture = f"could not be drawn ({error})"
    loaded = load_run(trainer.run, trainer.device)
    Console(highlight=False, soft_wrap=True).print(_table(trainer, peak, picture, loaded))
    prompt = trainer.dataset.recipe.get("sample_prompt", "")
    room = max(1, loaded.config.context - len(opening_ids(loaded.tokenizer, prompt)))  # all of it is in sight
    sampling = SamplingConfig(max_tokens=min(SAMPLE_TOKENS, room), temperature=SAMPLE_TEMPERATURE, seed=1)
    continuing = f", continuing {prompt!r}" if prompt else ""
    print(f"\nA sample at temperature {SAMPLE_TEMPERATURE}{continuing}:\n\n{prompt}", end="")
    for _, text, _ in continue_text(loaded.model, loaded.tokenizer, prompt, sampling):
        print(text, end="", flush=True)
    print()


def _table(trainer: Trainer, peak: int, picture: str, loaded: LoadedRun) -> Table:
    tokens = trainer.step * trainer.config.batch_tokens
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("trained", f"{trainer.step:,} steps, {tokens:,} tokens, {trainer.elapsed:.0f} s")
    if loaded.state["evaluation"]:
        for row in evaluation_rows(Evaluation(**loaded.state["evaluation"])):
            table.add_row(*row)
    table.add_row("peak memory", f"{peak / 1e6:,.0f} MB")
    table.add_row("best checkpoint", f"step {loaded.state['step']:,}")
    table.add_row("run", str(trainer.run))
    table.add_row("picture", picture)
    table.add_row("sample from it", f"python sample.py --run {trainer.run}")
    return table
