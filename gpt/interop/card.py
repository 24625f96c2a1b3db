"""The card of an exported model: README.md, with the metadata that the Hugging Face hub reads.

It is made of what the run's files say. What they do not say is called unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gpt.files import read_json, write_whole
from gpt.terminal import one_line

README = "README.md"
UNKNOWN = "unknown"
Rows = Sequence[tuple[str, str]]

# Who computes what the files mean, by the sources of these programs in 2026; not all of them were tried.
PROGRAMS = ("transformers", "vLLM", "SGLang", "llama.cpp", "CTranslate2", "ONNX (optimum-onnx)")
_AS_THEIRS = "through transformers: `--model-impl transformers`"
_NO_VOCABULARY = "yes; its converter knows the vocabulary of GPT-2 alone: `gpt export --format gguf` writes others"
_SILU = "**no: it converts it, and then computes SiLU in place of ReLU without a word**"
_QWEN = (_AS_THEIRS, _AS_THEIRS, _SILU, UNKNOWN, UNKNOWN)
RUNNERS = {
    "GPT2LMHeadModel": ("yes", "yes", "yes", _NO_VOCABULARY, "yes, for as many ids as the tokenizer has", "yes"),
    "GPTNeoXForCausalLM": ("yes", "yes", "yes", _NO_VOCABULARY, "yes", UNKNOWN),
    "ArceeForCausalLM": ("yes, from 4.53 on", "yes", UNKNOWN, _NO_VOCABULARY, UNKNOWN, "yes"),
    "ApertusForCausalLM": ("yes, from 4.56 on", _AS_THEIRS, _AS_THEIRS, "no: it has xIELU built in", "no", UNKNOWN),
    "Qwen2ForCausalLM": ("yes", *_QWEN),
    "Qwen3ForCausalLM": ("yes, from 4.51 on", *_QWEN),
}
WITH_CODE = "yes, with `trust_remote_code=True`: the class is in `modeling_gpt.py` beside the weights"


class Result(NamedTuple):
    """A figure of the evaluation, for the hub."""

    kind: str
    name: str
    value: float
    error: float | None
    """Its standard error."""


@dataclass(frozen=True)
class Card:
    """What stands in a card."""

    name: str
    """Of the model: the run's."""
    what: str
    """A sentence."""
    proof: str
    """What came of the comparison with the run, in words."""
    sections: dict[str, Rows]
    """Tables by their headings."""
    not_for: Sequence[str]
    prompt: str
    """To begin with."""
    data: tuple[str, ...] = ()
    """Names of the datasets."""
    hub_data: tuple[str, ...] = ()
    """Those of them that are on the hub, by their ids there."""
    results: Sequence[Result] = ()
    base: str | None = None
    """What it was fine-tuned from, by its id on the hub."""
    relation: str | None = None
    """finetune or adapter: what it is to the base."""
    license: str | None = None
    language: str | None = None
    is_chat: bool = False
    doubts: Sequence[str] = ()
    """Settings that transformers computes, and other programs that know the class may not."""
    adapter_of: str | None = None
    """For an adapter of PEFT's: how the base is called that it is loaded on."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further metadata."""


def write_card(to: Path, card: Card) -> None:
    """Write the README.md of a directory that holds an exported model, or an adapter of PEFT's."""
    config = read_json(to / "config.json") if card.adapter_of is None else {}
    parts = [f"---\n{_metadata(card, config)}\n---", f"# {plain(card.name)}", card.what, f"## Proof\n\n{card.proof}"]
    parts.append(f"## Load it\n\n{_usage(card, config)}")
    if card.adapter_of is None:
        parts.append(f"## Which programs compute it exactly\n\n{_runners(config, card.doubts)}")
    parts += [f"## {heading}\n\n{_table(rows)}" for heading, rows in card.sections.items()]
    parts.append("## What it is not for\n\n" + "\n".join(f"- {each}" for each in card.not_for))
    parts.append(f"## License\n\n{_license(card)}")
    write_whole(to / README, "\n\n".join(parts) + "\n")


def plain(text: str) -> str:
    """Write a name, or what a file says, so that Markdown shows it as it is, on one line."""
    text = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\`*_[]|#" else character for character in text)


def _metadata(card: Card, config: dict[str, Any]) -> str:
    """Write what the hub reads, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    kind = config.get("model_type")
    tags = [kind, "custom_code" if "auto_map" in config else None, "conversational" if card.is_chat else None]
    data = one_line(" + ".join(card.data)) or UNKNOWN
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=card.hub_data[0] if len(card.hub_data) == len(card.data) == 1 else data,
            dataset_name=data,
            dataset_split="validation",
            metric_type=each.kind,
            metric_name=each.name,
            metric_value=each.value,
            metric_args=None if each.error is None else {"standard_error": each.error},
        )
        for each in card.results
    ]
    found = ModelCardData(
        library_name="transformers" if card.adapter_of is None else "peft",
        pipeline_tag="text-generation",
        license=card.license,
        language=card.language,
        datasets=list(card.hub_data) or None,
        tags=[tag for tag in tags if tag] or None,
        base_model=card.base,
        base_model_relation=card.relation if card.base else None,
        model_name=one_line(card.name) if results else None,
        eval_results=results or None,
        **card.more,
    )
    return found.to_yaml(line_break="\n")


def _usage(card: Card, config: dict[str, Any]) -> str:
    """Write the lines of Python that load it and continue a prompt."""
    trust = ", trust_remote_code=True" if "auto_map" in config else ""
    if card.adapter_of is not None:
        imports = "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer"
        paths = f'path = "."  # this directory, or its name on the hub\nbase = {card.adapter_of!r}'
        tokens, loading = "base", "PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), path)"
    else:
        imports = "from transformers import AutoModelForCausalLM, AutoTokenizer"
        paths = 'path = "."  # this directory, or its name on the hub'
        tokens, loading = "path", f"AutoModelForCausalLM.from_pretrained(path{trust})"
    if card.is_chat:
        asked = f'messages = [{{"role": "user", "content": {card.prompt!r}}}]\n'
        asked += "prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)"
    else:
        asked = f"prompt = {card.prompt!r}"
    lines = [imports, "", paths, f"tokenizer = AutoTokenizer.from_pretrained({tokens}{trust})", f"model = {loading}"]
    lines += [asked, 'ids = tokenizer(prompt, return_tensors="pt").input_ids']
    lines += ["new = model.generate(input_ids=ids, max_new_tokens=50, do_sample=True, temperature=0.8, top_k=50)"]
    lines += ["print(tokenizer.decode(new[0]))"]
    return "```python\n" + "\n".join(lines) + "\n```"


def _runners(config: dict[str, Any], doubts: Sequence[str]) -> str:
    """Say which programs compute it, by its class, and by the settings that they may not know of it."""
    [kind] = config.get("architectures") or [UNKNOWN]
    if "auto_map" in config:
        known = (WITH_CODE, *["no: no class of theirs has this architecture"] * (len(PROGRAMS) - 1))
    else:
        known = RUNNERS.get(kind, ("yes", *[UNKNOWN] * (len(PROGRAMS) - 1)))
    if doubts and "auto_map" not in config:
        doubt = plain(f"{UNKNOWN}: it may not know {', '.join(doubts)}")
        known = (known[0], *(doubt if words.startswith("yes") else words for words in known[1:]))
    rows = [*zip(PROGRAMS, known, strict=True)]
    about = "By what these programs' sources say in 2026; only what stands under *Proof* was run."
    return f"The files are of the class `{kind}`.\n\n{_table(rows)}\n\n{about}"


def _license(card: Card) -> str:
    if card.license:
        return f"`{card.license}`, as whoever exported it has stated."
    also = " What it was fine-tuned from, and its data, have licenses of their own." if card.base else ""
    return f"None was stated when it was exported (`gpt export --license`): ask who published it.{also}"


def _table(rows: Rows) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {words} |" for name, words in rows)])
