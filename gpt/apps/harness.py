"""A run as a model of lm-evaluation-harness, the package lm_eval, by the name `gpt-run`.

Versions of it that know entry points find it by the one in pyproject.toml; `gpt lm-eval` imports it for the others. The
harness asks in texts, its base class makes ids of them, and likelihood.py and the engine answer. The text of a special
token is that token here, as Hugging Face's tokenizers have it, whose scores these equal.

Several processes, started by torchrun, each load the model; the harness gives each its part of the documents.
"""

import atexit
import hashlib
import re
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from typing import Any, get_args

import lm_eval.models  # noqa: F401 (the harness has its own models registered only where none is yet)
import torch
import torch.distributed as dist
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from torch import Tensor
from tqdm import tqdm

from gpt.apps.harness_texts import written
from gpt.choices import WeightDtype
from gpt.device import choose_device
from gpt.distributed.launch import join_world
from gpt.errors import InputError
from gpt.evaluation.likelihood import Ids, likelihoods, rolling_windows
from gpt.generation.completion import opening_ids
from gpt.log import log
from gpt.runs.load import load_run
from gpt.text.added import marked
from gpt.text.chat_template import ChatTemplate, Message

AT_ONCE = 2048  # requests between two writings to the harness's cache
MAX_GEN_TOKS = 256  # as the harness has it
TIMEOUT = 1800  # seconds that a process waits for another's part


@register_model("gpt-run")
class HarnessModel(TemplateLM):
    """A run, or a Hugging Face GPT-2, that the harness grades."""

    def __init__(
        self,
        run: str | None = None,
        checkpoint: str | int = "best",
        dtype: WeightDtype = "float32",
        batch_size: str | int = "auto",
        device: str = "auto",
        max_length: int | None = None,
        **unknown: Any,
    ) -> None:
        """Load what `run` names, by default the newest run, as `load_run` does.

        `batch_size` sequences are read at a time; auto takes as many as make a good pass. `max_length` is the most that
        the model reads, by default its context. `device` cuda, which the harness has by default, is the best there is
        where there is no CUDA. Raises InputError for what is not there, and for unknown arguments.
        """
        super().__init__()
        if unknown:
            known = "run, checkpoint, dtype, batch_size, device and max_length"
            raise InputError(f"model_args: there is no {', '.join(unknown)}; there are {known}")
        if dtype not in get_args(WeightDtype):
            raise InputError(f"model_args: dtype is {dtype!r}; it must be {', '.join(get_args(WeightDtype))}")
        self.batch = _batch(batch_size)
        self._device = _device(device)
        self.world = ExitStack().enter_context(join_world(self._device.partition(":")[0], TIMEOUT))
        if self.world.size > 1:  # each process has a device of its own by now
            atexit.register(dist.destroy_process_group)
            self._device = self._device.partition(":")[0]
        self.run = load_run(None if run is None else str(run), self._device, dtype, checkpoint=checkpoint)
        context = self.run.config.context_length
        if max_length is not None and not 1 <= max_length <= context:
            raise InputError(f"model_args: max_length is {max_length}; it must be from 1 to the context, {context:,}")
        self.max_length = max_length or context
        self.max_gen_toks = MAX_GEN_TOKS
        log.info(f"lm-eval: {self.run.source}")

    # ---- texts as ids ----

    @cached_property
    def eot_token_id(self) -> int:
        """Give the id that every text begins after: end-of-text, or what stands for it where there is none."""
        return opening_ids(self.run.tokenizer, "")[0]

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Encode a text; the text of a special token is that token. None is ever added."""
        return marked(string, self.run.tokenizer).ids(self.run.tokenizer)

    # ---- likelihoods ----

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score continuations of contexts; an empty context stands for end-of-text."""
        if any(not request.args[1] for request in requests):
            raise InputError("lm-eval: a task asks for the likelihood of an empty text; repair its rows")
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        answers = list[tuple[float, bool]]()
        with self._bar("likelihoods", len(requests), disable_tqdm) as bar:
            for begin in range(0, len(requests), AT_ONCE):
                part = requests[begin : begin + AT_ONCE]
                pairs = [(context or [self.eot_token_id], _tokens(texts, ids)) for texts, context, ids in part]
                found = likelihoods(self.run.model, pairs, self.max_length, override_bs or self.batch, bar.update)
                answers += [(one.logprob, one.greedy) for one in found]
                for request, answer in zip(part, answers[begin:], strict=True):
                    self.cache_hook.add_partial("loglikelihood", request[0], answer)
        return answers

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Score whole texts, in windows where they are longer than the model sees."""
        answers = list[float]()
        with self._bar("texts", len(requests), disable_tqdm) as bar:
            for begin in range(0, len(requests), 64):
                part = [request.args for request in requests[begin : begin + 64]]
                windows = [self._windows(text) for (text,) in part]
                pairs = [pair for some in windows for pair in some]
                found = iter(likelihoods(self.run.model, pairs, self.max_length, self.batch))
                for arguments, some in zip(part, windows, strict=True):
                    answers.append(float(sum(next(found).logprob for _ in some)))
                    self.cache_hook.add_partial("loglikelihood_rolling", arguments, answers[-1])
                bar.update(len(part))
        return answers

    def _windows(self, text: str) -> list[tuple[Ids, Ids]]:
        return rolling_windows(self.tok_encode(text), self.eot_token_id, self.max_length)

    # ---- texts that it writes ----

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Continue each context up to a stop text; of requests that are repeated, each is a draw of its own."""
        asked, answers = [request.args for request in requests], [""] * len(requests)
        with self._bar("texts", len(requests), disable_tqdm) as bar:
            for number, text in written(self.run, asked, self.max_length, self.max_gen_toks, self.batch):
                answers[number] = text
                self.cache_hook.add_partial("generate_until", asked[number], text)
                bar.update()
        return answers

    # ---- conversations ----

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Write a conversation as the run's template does; without a generation prompt its last answer goes on."""
        messages = [Message(said["role"], said["content"]) for said in chat_history]
        begun = "" if add_generation_prompt else messages.pop().content
        return str(self._template().prompt(messages)) + begun

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Give the template's source in Jinja, where one is asked for. Raises InputError where there is none."""
        if isinstance(chat_template, str) and chat_template:
            raise InputError(f"apply_chat_template {chat_template!r}: a run has one chat template, without a name")
        return self._template().source if chat_template else None

    def _template(self) -> ChatTemplate:
        if self.run.template is None:
            raise InputError(f"{self.run.path}: has no chat template, as it learned no conversations; apply none")
        return self.run.template

    @property
    def tokenizer_name(self) -> str:
        """Name the tokenizer and the template, for whoever keeps what was made by them."""
        source = "" if self.run.template is None else self.run.template.source
        both = f"{self.run.tokenizer.fingerprint} {source}"
        return f"{self.run.tokenizer.kind}-{hashlib.sha256(both.encode()).hexdigest()[:16]}"

    # ---- several processes ----

    @property
    def rank(self) -> int:
        return self.world.rank

    @property
    def world_size(self) -> int:
        return self.world.size

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Put the numbers of all ranks behind each other."""
        return torch.cat([part.view(-1) for part in self._of_all(tensor.cpu())]) if self.world.size > 1 else tensor

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """Give the objects of all ranks on rank `dst`, and None elsewhere."""
        found = self._of_all(obj)
        return found if self.world.rank == dst else None

    def _of_all(self, obj: Any) -> list[Any]:
        found = [obj] * self.world.size
        if self.world.size > 1:
            dist.all_gather_object(found, obj)
        return found

    def barrier(self) -> None:
        """Wait for the other ranks."""
        self.world.barrier()

    def _bar(self, what: str, total: int, disabled: bool) -> Any:
        return tqdm(total=total, desc=f"gpt-run: {what}", disable=disabled or self.world.rank > 0)


def _device(wanted: str) -> str:
    """Choose a device; what the harness names by default need not be there."""
    if wanted.startswith("cuda") and choose_device("auto") != "cuda":
        log.warning(f"lm-eval: there is no CUDA here; computing on {choose_device('auto')}")
        return choose_device("auto")
    return choose_device(wanted) if wanted == "auto" else wanted


def _batch(batch_size: str | int) -> int | None:
    """Read a batch size; None for auto, with or without the harness's number of times to find it anew."""
    if str(batch_size).partition(":")[0] == "auto":
        return None
    if not re.fullmatch(r"[1-9]\d*", str(batch_size)):
        raise InputError(f"batch_size is {batch_size!r}; it must be a number from 1 on, or auto")
    return int(batch_size)


def _tokens(texts: tuple[str, str], ids: list[int]) -> list[int]:
    """Return a continuation's ids. Raises InputError if it has none of its own."""
    if ids:
        return ids
    raise InputError(
        f"lm-eval: {texts[1]!r} after {texts[0][-40:]!r} has no token of its own: it joins the context's last one, or "
        "is end-of-text after nothing; no likelihood can be told"
    )
