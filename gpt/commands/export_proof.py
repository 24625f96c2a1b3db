"""Whether an export is the run's model: transformers, or PEFT, loads it again, and both are given the same prompts.

Compared are the ids of 20 prompts, 64 greedy tokens after each, and all logits on the way; and the logits of one window
as long as the context, which has the later positions, and what a sliding window leaves out.

Letters in shapes: T tokens, V vocabulary.
"""

import contextlib
import copy
import math
import re
import warnings
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import chain, cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gpt.commands.export_prompts import Prompts
from gpt.files import read_json
from gpt.generation.engine import Engine
from gpt.generation.sampling import SamplingConfig
from gpt.memory import is_out_of_memory
from gpt.model.transformer import GPT
from gpt.terminal import one_line
from gpt.text.tokenizer import Tokenizer

PROMPT_TOKENS, NEW_TOKENS = 64, 64
LONGEST_WINDOW = 2048  # tokens whose logits are held at once: of a large vocabulary they take much memory
TOLERANCE = 1e-5  # of the largest logit, or of 1: what another order of summation costs in float32
INSTALL, INSTALL_PEFT = "pip install 'transformers>=4.56'", "pip install 'transformers>=4.56' peft"
ABSOLUTE = re.compile(r"""([A-Za-z]:)?[\\/][^\s'",;()]+""")  # a path of whoever exports
OLDEST = (4, 56)  # of transformers: `dtype` had another name before


@dataclass(frozen=True)
class NotProved:
    """Why nothing was compared, and what would help."""

    why: str
    remedy: str
    passed = None

    @property
    def in_words(self) -> str:
        return f"Not proved: nothing was compared with the run ({self.why}). To do so: {self.remedy}"


LEFT_OUT = NotProved("it was left out when this was exported", "export it again without `--no-proof`")
NOT_OVER = NotProved("the comparison was not over, or was interrupted", "export it again")


@dataclass(frozen=True)
class Proof:
    """What came of the comparison; it has failed if there are faults."""

    library: str
    """What loaded it, with its version."""
    prompts: Prompts
    prompt_tokens: int = 0
    new_tokens: int = 0
    """Greedy ones after each prompt: fewer than 64 where the context is short."""
    equal: int = 0
    """Continuations that are equal to their last id."""
    ties: int = 0
    """Continuations that part where in both models two logits are equal within the tolerance."""
    difference: float = 0.0
    """The largest of two logits."""
    largest: float = 0.0
    """Absolute value of a logit."""
    window: int = 0
    """Tokens of the longest text whose logits were compared."""
    faults: tuple[str, ...] = ()

    @property
    def tolerance(self) -> float:
        """By how much logits may differ."""
        return TOLERANCE * max(1.0, self.largest)

    @property
    def passed(self) -> bool:
        return not self.faults

    @property
    def in_words(self) -> str:
        """Say what came of it, with figures."""
        count = len(self.prompts.texts)
        loaded = f"Loaded again by {self.library}"
        if self.faults:
            return f"FAILED. {loaded}, this is not the run's model: {'; '.join(self.faults)}."
        ties = ""
        if self.ties:
            ties = f", and {self.ties} part where both models have two logits within {self.tolerance:.1e} of each other"
        tokens = f"{self.new_tokens} greedy token{'s' * (self.new_tokens != 1)}"
        return (
            f"{loaded}, it is the run's model: {count} prompts {self.prompts.source}, of {self.prompt_tokens} tokens, "
            f"have equal ids, and {self.equal} of {count} are continued by the same {tokens}{ties}; logits differ by "
            f"at most {self.difference:.1e}, where they are up to {self.largest:.3g} and rounding in float32 may cost "
            f"{self.tolerance:.1e}, also in a window of {self.window:,} tokens."
        )

    def with_fault(self, fault: str) -> "Proof":
        return replace(self, faults=(*self.faults, fault))

    def with_logits(self, ours: Tensor, theirs: Tensor) -> "Proof":
        """Take into account the logits (T, V) of the same text by both models."""
        apart = (ours - theirs).abs().max().item()
        return replace(
            self,
            difference=max(self.difference, apart if math.isfinite(apart) else math.inf),
            largest=max(self.largest, ours.abs().max().item()),
            window=max(self.window, len(ours)),
        )


def prove(
    model: GPT, tokenizer: Tokenizer, prompts: Prompts, to: Path, adapter: Path | None = None
) -> Proof | NotProved:
    """Compare a model, on the CPU, with what Hugging Face's libraries load from the directory that was just written.

    `adapter` is that of an adapter of PEFT's, to be put on it. Python code is taken from the directory only where its
    config.json says so, and we have written both.
    """
    if missing := _missing(to, adapter):
        return missing
    import transformers

    library = f"transformers {transformers.__version__}"
    if adapter:
        import peft

        library += f" and PEFT {peft.__version__}"
    found = Proof(library, prompts)
    with _silent(transformers):
        try:
            theirs, their_tokenizer = _loaded(to, adapter)
            ours, theirs = _rounded(model, theirs.dtype), theirs.float()
            return _computed(_encoded(found, tokenizer, their_tokenizer), ours, theirs, tokenizer)
        except Exception as error:  # whatever their libraries raise
            if is_out_of_memory(error):
                return NotProved("memory ran out", "export it again where there is more")
            reason = ABSOLUTE.sub("…", one_line(f"{type(error).__name__}: {error}"))[:200]  # it stands in the card
            return found.with_fault(f"{found.library} could not load or compute it ({reason})")


# ---- loading ----


def _missing(to: Path, adapter: Path | None) -> NotProved | None:
    """Say why their libraries cannot be asked, if they cannot."""
    install = INSTALL_PEFT if adapter else INSTALL
    try:
        import transformers

        if adapter:
            import peft  # noqa: F401
    except ImportError as error:
        return NotProved(f"{error.name or 'a library'} is not installed, or cannot be imported", install)
    version = f"transformers {transformers.__version__}"
    if tuple(map(int, transformers.__version__.split(".")[:2])) < OLDEST:
        return NotProved(f"{version} is too old", install)
    config = read_json(to / "config.json")
    kind = config.get("model_type")
    if "auto_map" not in config and kind not in transformers.CONFIG_MAPPING:
        return NotProved(f"{version} does not know {kind} yet", install.replace("install", "install -U"))
    return None


@contextlib.contextmanager
def _silent(transformers: Any) -> Generator[None]:
    """Keep their libraries from speaking of what they load: bars, and advice for who wrote the files."""
    speaks = transformers.utils.logging
    level, bars = speaks.get_verbosity(), speaks.is_progress_bar_enabled()
    speaks.set_verbosity_error()
    speaks.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        speaks.set_verbosity(level)
        if bars:
            speaks.enable_progress_bar()


def _loaded(to: Path, adapter: Path | None) -> tuple[Any, Any]:
    """Load model and tokenizer from their files alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    here = {"local_files_only": True, "trust_remote_code": "auto_map" in read_json(to / "config.json")}
    model = AutoModelForCausalLM.from_pretrained(str(to), dtype="auto", **here)
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    model.generation_config.eos_token_id = None  # all tokens are compared, also those after an end
    return model.eval(), AutoTokenizer.from_pretrained(str(to), **here)


def _rounded(model: GPT, dtype: torch.dtype) -> GPT:
    """Give a model whose weights are those of its files, which may be rounded."""
    return model if dtype == model.dtype else copy.deepcopy(model).to(dtype).float()


# ---- comparing ----


def _encoded(found: Proof, ours: Tokenizer, theirs: Any) -> Proof:
    """Compare what both tokenizers make of the prompts, and of their ids."""
    wrong = []
    for number, text in enumerate(found.prompts.texts, 1):
        own, other = ours.encode(text), list(theirs(text)["input_ids"])
        back = theirs.decode(own, clean_up_tokenization_spaces=False)
        if own != other or back != ours.decode(own):
            wrong.append(f"number {number}: {len(own)} and {len(other)} ids")
    if not wrong:
        return found
    return found.with_fault(f"the tokenizers differ on {len(wrong)} of {len(found.prompts.texts)} prompts ({wrong[0]})")


def _computed(found: Proof, ours: GPT, theirs: Any, tokenizer: Tokenizer) -> Proof:
    """Compare what both models make of the prompts' ids."""
    encoded, context = [tokenizer.encode(text) for text in found.prompts.texts], ours.config.context_length
    length = min(PROMPT_TOKENS, max(1, context // 2), *map(len, encoded))  # of all, so that they go side by side
    starts, new = [ids[:length] for ids in encoded], min(NEW_TOKENS, context - length)
    found = replace(found, prompt_tokens=length, new_tokens=new)
    vocabularies = [_logits(model, starts[0]).size(1) for model in (ours, theirs)]
    if vocabularies[0] != vocabularies[1]:
        return found.with_fault("it scores {1:,} tokens, and the run's model {0:,}".format(*vocabularies))
    own, others = _greedy(ours, starts, new), _their_greedy(theirs, starts, new)
    partings = []  # number of the continuation, its token, and how far apart two logits are that should be equal
    for number, (start, one, other) in enumerate(zip(starts, own, others, strict=True), 1):
        a, b = _logits(ours, start + other), _logits(theirs, start + other)
        found = found.with_logits(a, b)
        if one == other:
            found = replace(found, equal=found.equal + 1)
            continue
        place = next(place for place in range(new) if one[place] != other[place])
        mine, yours, at = one[place], other[place], length - 1 + place
        gap = max((a[at, mine] - a[at, yours]).abs().item(), (b[at, mine] - b[at, yours]).abs().item())
        partings.append((number, place + 1, gap))
    window = [*islice(cycle(chain.from_iterable(starts)), min(LONGEST_WINDOW, context))]
    found = found.with_logits(_logits(ours, window), _logits(theirs, window))
    return _judged(found, partings)


def _judged(found: Proof, partings: list[tuple[int, int, float]]) -> Proof:
    """Tell ties from differences, and hold the logits against what rounding may cost."""
    real = [parting for parting in partings if not parting[2] <= found.tolerance]
    found = replace(found, ties=len(partings) - len(real))
    if real:
        number, token, gap = real[0]
        found = found.with_fault(
            f"{len(real)} of {len(found.prompts.texts)} continuations have other ids: number {number} from its token "
            f"{token} on, where two logits are {gap:.1e} apart"
        )
    if not found.difference <= found.tolerance:
        found = found.with_fault(f"logits differ by up to {found.difference:.1e}; {found.tolerance:.1e} is allowed")
    return found


@torch.no_grad()
def _logits(model: Any, ids: list[int]) -> Tensor:
    """Compute logits after each id, (T, V) float32, by a model of ours or theirs."""
    found = model(torch.tensor([ids]))
    return getattr(found, "logits", found)[0].float()


def _greedy(model: GPT, starts: list[list[int]], tokens: int) -> list[list[int]]:
    """Continue ids by our engine, as `gpt sample --greedy` does; an end-of-text ends nothing."""
    engine, sampling = Engine(model, max_batch=len(starts)), SamplingConfig(max_tokens=max(1, tokens), temperature=0)
    requests = [engine.submit(ids, sampling) for ids in starts]
    for _ in engine.run():
        pass
    return [request.output_ids[:tokens] for request in requests]


def _their_greedy(model: Any, starts: list[list[int]], tokens: int) -> list[list[int]]:
    """Continue ids by their own generation."""
    if not tokens:  # a context of one token
        return [[] for _ in starts]
    ids = torch.tensor(starts)
    how = {"max_new_tokens": tokens, "do_sample": False, "num_beams": 1}
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **how)[:, ids.size(1) :].tolist()
