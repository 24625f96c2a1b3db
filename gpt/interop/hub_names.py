"""What a model on the Hugging Face hub is called."""

from pathlib import Path

FAMILY = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
FAMILY |= {"distilgpt2": "distilbert/distilgpt2"}


def hub_id(source: str) -> str:
    """Give the whole id of a name of GPT-2's family, such as gpt2 or gpt2@main, unless a directory here has it."""
    name, at, revision = source.partition("@")
    return source if Path(source).exists() else f"{FAMILY.get(name, name)}{at}{revision}"
