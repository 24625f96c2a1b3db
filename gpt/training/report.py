"""What a finished run has reached, where it lies, and a sample of it."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from gpt.config import SamplingConfig
from gpt.evaluation.loss import Evaluation
from gpt.generation.text import continue_text, opening_ids
from gpt.run import LoadedRun, load_run
from gpt.tokens.shards import Dataset
from gpt.training.metrics import draw_losses, read_metrics

SAMPLE_TOKENS, SAMPLE_TEMPERATURE = 200, 0.6


def report(run: Path, dataset: Dataset, device: str) -> None:
    """Draw loss.png, and print the table and a sample from the best checkpoint."""
    picture = draw_losses(run)
    loaded = load_run(run, device)
    Console(highlight=False, soft_wrap=True).print(_table(run, picture, loaded))
    prompt = dataset.recipe.get("sample_prompt", "")
    room = max(1, loaded.config.context - len(opening_ids(loaded.tokenizer, prompt)))  # all of it is in sight
    sampling = SamplingConfig(max_tokens=min(SAMPLE_TOKENS, room), temperature=SAMPLE_TEMPERATURE, seed=1)
    continuing = f", continuing {prompt!r}" if prompt else ""
    print(f"\nA sample at temperature {SAMPLE_TEMPERATURE}{continuing}:\n\n{prompt}", end="")
    for _, text, _ in continue_text(loaded.model, loaded.tokenizer, prompt, sampling):
        print(text, end="", flush=True)
    print()


def _table(run: Path, picture: Path, loaded: LoadedRun) -> Table:
    last = read_metrics(run)[-1]
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("trained", f"{last['step']:,} steps, {last['tokens']:,} tokens, {last['elapsed_s']:.0f} s")
    if loaded.state["evaluation"]:
        for row in evaluation_rows(Evaluation(**loaded.state["evaluation"])):
            table.add_row(*row)
    table.add_row("best checkpoint", f"step {loaded.state['step']:,}")
    table.add_row("run", str(run))
    table.add_row("picture", str(picture))
    table.add_row("sample from it", f"python sample.py --run {run}")
    return table


def evaluation_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The figures of an evaluation in words, each with its standard error."""
    return [
        ("validation loss", f"{evaluation.loss:.4f} ± {evaluation.loss_se:.4f} nats per token"),
        ("bits per byte", f"{evaluation.bits_per_byte:.4f} ± {evaluation.bits_per_byte_se:.4f}"),
        ("perplexity", f"{evaluation.perplexity:.2f} ± {evaluation.perplexity_se:.2f}"),
        ("evaluated on", f"{evaluation.tokens:,} tokens, {evaluation.text_bytes:,} bytes: the whole validation split"),
    ]
