"""Runs graded by lm-evaluation-harness, beside its own hf backend on the exported model."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from helpers import SHAPE, python_text

from gpt import GPT, InputError, Tokenizer, TrainConfig
from gpt.interop.huggingface_export import export
from gpt.runs.checkpoint import save
from gpt.runs.directory import open_run
from gpt.runs.load import load_run
from gpt.text.added import with_added
from gpt.text.chat_template import CHATML_SOURCE, FILE

lm_eval = pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (the extra `eval`)")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from gpt.apps.harness import HarnessModel  # noqa: E402

CONTEXT = 1024
TEXT = python_text()
CHOICE = """\
task: letters
dataset_path: json
dataset_kwargs: {{data_files: {{test: {home}/letters.jsonl}}, cache_dir: {home}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: label
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
LAST_WORD = """\
task: last_word
dataset_path: json
dataset_kwargs: {{data_files: {{test: {home}/texts.jsonl}}, cache_dir: {home}/cache}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' '+text.split(' ')[-1]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
WHOLE = """\
task: whole_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {home}/texts.jsonl}}, cache_dir: {home}/cache}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""
WRITTEN = """\
task: written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {home}/texts.jsonl}}, cache_dir: {home}/cache}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text[:60]}}}}"
doc_to_target: "{{{{text[60:]}}}}"
generation_kwargs: {{until: ["\\n", "e"], max_gen_toks: 12}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A directory of tasks: choices of several lengths, last words, whole texts, and texts that are written."""
    home, rng = tmp_path_factory.mktemp("tasks"), random.Random(0)
    words = ["né", "日本語", "🙂", " def", "return x", "the", "a much longer answer, with 12 words", "Ω ≤ 1", "x"]
    rows = [
        {"question": TEXT[at : at + rng.randrange(1, 300)], "choices": rng.sample(words, 4), "label": rng.randrange(4)}
        for at in rng.sample(range(50_000), 12)
    ]
    texts = [
        {"text": " ".join(TEXT[at : at + rng.randrange(100, 4000)].split())} for at in rng.sample(range(50_000), 6)
    ]
    for name, content in (("letters", rows), ("texts", texts)):
        lines = [json.dumps(row, ensure_ascii=False) for row in content]
        (home / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for name, content in (("letters", CHOICE), ("last_word", LAST_WORD), ("whole_text", WHOLE), ("written", WRITTEN)):
        (home / f"{name}.yaml").write_text(content.format(home=home), encoding="utf-8")
    return home


def opinionated_run(home, tokenizer, context=CONTEXT, template=None):
    """A run whose weights are large, so that its model finds texts of very different likelihoods."""
    torch.manual_seed(0)
    model = GPT(replace(SHAPE, vocab_size=tokenizer.vocab_size, context_length=context)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    config = TrainConfig(run_dir=home, batch_tokens=context, model=model.config)
    with open_run(config, tokenizer, resume=False) as run:
        save(run, model.state_dict(), {}, {"step": 1, "evaluation": None})
    if template:
        (run / FILE).write_text(template, encoding="utf-8")
    return run


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def pair(request, tmp_path_factory, bpe):
    """A run, and the model of Hugging Face that it was exported as."""
    home = tmp_path_factory.mktemp(request.param)
    tokenizer = Tokenizer.utf8_bytes() if request.param == "bytes" else bpe
    run = opinionated_run(home / "run", tokenizer)
    loaded = load_run(run)
    export(loaded.model, loaded.tokenizer, home / "exported")
    return run, home / "exported"


@pytest.fixture(scope="module")
def exact_pair(pair):
    """The models of both in float64, so that rounding decides nothing."""
    ours, theirs = HarnessModel(run=pair[0], device="cpu"), HFLM(str(pair[1]), device="cpu", dtype="float64")
    ours.run.model.double()
    return ours, theirs


def asked(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=some, idx=0) for some in arguments]


def require_same(found, expected, tolerance=1e-9):
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert one == (pytest.approx(two[0], abs=tolerance), two[1])


# What went wrong elsewhere: lm-evaluation-harness #350 and #443 (PR #526), nanoGPT #385 and PR #330.
PAIRS = {
    "empty context": ("", "x = 1"),
    "a space moved to the word": ("def f(", "x "),
    "several": ("self. \n  ", " y"),
    "end-of-text first": ("", "<|endoftext|>return x"),
    "end-of-text in the context": ("one<|endoftext|>two", " three"),
    "end-of-text scored": ("one", " two<|endoftext|>"),
    "no ASCII": ("日本語 né", " 🙂 Ω"),
    "one token": ("import", " o"),
    "the same context": ("import", " os and sys"),
    "as the beginning of another": ("import", " os"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_likelihood_is_that_of_the_hf_backend_on_the_export(exact_pair, name):
    ours, theirs = exact_pair
    requests = asked("loglikelihood", PAIRS[name])
    require_same(ours.loglikelihood(requests, True), theirs.loglikelihood(requests, True))


def test_so_are_those_of_all_at_once(exact_pair):
    ours, theirs = exact_pair
    requests = asked("loglikelihood", *PAIRS.values())
    require_same(ours.loglikelihood(requests, True), theirs.loglikelihood(requests, True))


@pytest.mark.parametrize("context", [1, 1000, 1022, 1023, 1024, 1025, 2000])
@pytest.mark.parametrize("continuation", [1, 2, 1023, 1024])
def test_what_is_too_long_is_cut_as_the_hf_backend_cuts_it(exact_pair, context, continuation):
    """Around a context of 1,024, of ids, as many as the names say."""
    ours, theirs = exact_pair
    ids = [i * 31 % 250 for i in range(context + continuation)]
    requests = [(("a", "b"), ids[:context], ids[context:])]
    require_same(ours._loglikelihood_tokens(requests, True), theirs._loglikelihood_tokens(requests, True))


@pytest.mark.parametrize("characters", [0, 1, 1023, 1024, 1025, 2048, 2049, 5000])
def test_whole_texts_are_scored_in_the_same_windows(exact_pair, characters):
    ours, theirs = exact_pair
    requests = asked("loglikelihood_rolling", (TEXT[:characters],), ("né",))
    found = [(value, True) for value in ours.loglikelihood_rolling(requests, True)]
    if characters:
        require_same(found, [(value, True) for value in theirs.loglikelihood_rolling(requests, True)])
    else:
        assert found[0] == (0.0, True)


def test_max_length_is_that_of_the_hf_backend(pair):
    ours = HarnessModel(run=pair[0], device="cpu", max_length=20)
    theirs = HFLM(str(pair[1]), device="cpu", dtype="float64", max_length=20)
    ours.run.model.double()
    likely, rolling = asked("loglikelihood", (TEXT[:300], " x y")), asked("loglikelihood_rolling", (TEXT[:300],))
    require_same(ours.loglikelihood(likely, True), theirs.loglikelihood(likely, True))
    assert ours.loglikelihood_rolling(rolling, True) == pytest.approx(theirs.loglikelihood_rolling(rolling, True))


NAMES = ["letters", "last_word", "whole_text", "written"]


@pytest.fixture(scope="module")
def grade(tasks):
    """What the harness finds of a model, by its own function: figures, and each row."""
    manager = TaskManager(include_path=str(tasks), include_defaults=False)

    def found(model, given, batch_size):
        settings = {"tasks": NAMES, "device": "cpu", "bootstrap_iters": 0, "log_samples": True, "task_manager": manager}
        return lm_eval.simple_evaluate(model=model, model_args=given, batch_size=batch_size, **settings)

    return found


@pytest.fixture(scope="module")
def graded_by_hf(pair, grade):
    return grade("hf", {"pretrained": str(pair[1]), "dtype": "float32"}, 4)


@pytest.mark.process  # the harness asks git for its version
@pytest.mark.parametrize("batch_size", [1, "auto"])
def test_tasks_have_the_scores_of_the_hf_backend(pair, grade, graded_by_hf, batch_size):
    """In float32: the figures of each task, and the answers of each row."""
    ours, theirs = grade("gpt-run", {"run": str(pair[0])}, batch_size), graded_by_hf
    for name in NAMES:
        figures = {metric: value for metric, value in theirs["results"][name].items() if isinstance(value, float)}
        assert figures
        for metric, expected in figures.items():
            both = ours["results"][name][metric], expected
            if "perplexity" in metric:  # e to the power of what has the rounding
                both = math.log(both[0]), math.log(both[1])
            assert both[0] == pytest.approx(both[1], rel=1e-6), (name, metric)
        for one, two in zip(ours["samples"][name], theirs["samples"][name], strict=True):
            assert one["arguments"] == two["arguments"]
            assert one["filtered_resps"] == [alike(some) for some in two["filtered_resps"]]
    assert 0 < ours["results"]["letters"]["acc,none"] < 1


def alike(answer):
    """An answer of the harness, whose logarithms may differ by rounding."""
    if isinstance(answer, tuple):
        return (pytest.approx(answer[0], rel=1e-6), *answer[1:])
    return answer if isinstance(answer, str) else pytest.approx(answer, rel=1e-6)


def test_a_context_of_spaces_alone_begins_after_end_of_text(exact_pair):
    """Where the hf backend ends in an assertion."""
    ours, _ = exact_pair
    assert ours.loglikelihood(asked("loglikelihood", ("  ", "x")), True) == ours.loglikelihood(
        asked("loglikelihood", ("", "  x")), True
    )


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        (("a", ""), "the likelihood of an empty text"),
        (("", ""), "the likelihood of an empty text"),
        (("", "<|endoftext|>"), "'<|endoftext|>' after '' has no token of its own"),
        (("", "ab" * 1025), "its continuation has .* tokens, and the model sees 1,024"),
    ],
)
def test_what_has_no_likelihood_is_a_sentence(pair, texts, complaint):
    ours = HarnessModel(run=pair[0], device="cpu")
    with pytest.raises(InputError, match=complaint.replace("|", r"\|")):
        ours.loglikelihood(asked("loglikelihood", texts), True)


# ---- texts that it writes ----


def test_greedy_texts_are_those_of_the_hf_backend(exact_pair):
    ours, theirs = exact_pair
    settings = [{"until": ["\n"], "max_gen_toks": 20}, {"until": [], "max_gen_toks": 5}, {"max_new_tokens": 9}]
    contexts = ["def f(x):", "né 🙂", TEXT[:3000], "a"]
    requests = asked("generate_until", *((context, dict(given)) for given in settings for context in contexts))
    found = ours.generate_until(requests, True)
    again = asked("generate_until", *((context, dict(given)) for given in settings for context in contexts))
    assert found == theirs.generate_until(again, True)


def test_a_text_ends_before_a_stop_text(pair):
    ours = HarnessModel(run=pair[0], device="cpu")
    (whole,) = ours.generate_until(asked("generate_until", ("def", {"max_gen_toks": 30})), True)
    stop = whole[5:7]
    (cut,) = ours.generate_until(asked("generate_until", ("def", {"until": stop, "max_gen_toks": 30})), True)
    assert cut == whole[: whole.index(stop)]


def test_repeated_requests_are_draws_of_their_own_by_torchs_seed(pair):
    ours = HarnessModel(run=pair[0], device="cpu")
    given = {"do_sample": True, "temperature": 2.0, "top_k": 200, "max_gen_toks": 20}
    requests = asked("generate_until", *[("def", given)] * 3, ("class", given))
    torch.manual_seed(5)
    first = ours.generate_until(requests, True)
    assert len({*first}) == 4
    assert ours.generate_until(requests, True) == first
    torch.manual_seed(6)
    assert ours.generate_until(requests, True) != first


# ---- conversations ----


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    tokenizer = with_added(Tokenizer.utf8_bytes(), ["<|im_start|>", "<|im_end|>"])
    run = opinionated_run(tmp_path_factory.mktemp("talk") / "run", tokenizer, 256, CHATML_SOURCE)
    return HarnessModel(run=run, device="cpu")


def test_conversations_are_written_by_the_runs_template(talker):
    said = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because"}]
    text = talker.apply_chat_template(said[:1])
    assert text == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    assert talker.apply_chat_template(said, add_generation_prompt=False) == text + "Because"
    assert talker.chat_template(True) == CHATML_SOURCE
    assert talker.chat_template(False) is None
    specials = talker.run.tokenizer.special_tokens
    assert talker.tok_encode(text)[0] == specials["<|im_start|>"]
    assert talker.tok_encode(text).count(specials["<|im_end|>"]) == 1
    with pytest.raises(InputError, match="one chat template, without a name"):
        talker.chat_template("tools")


def test_a_plain_conversations_stop_texts_end_an_answer(talker, tmp_path, monkeypatch):
    from gpt.text.chat_template import PLAIN_SOURCE

    run = opinionated_run(tmp_path / "run", Tokenizer.utf8_bytes(), 256, PLAIN_SOURCE)
    ours, seen = HarnessModel(run=run, device="cpu"), []
    honest = type(ours.run.template)
    context = ours.apply_chat_template([{"role": "user", "content": "Why?"}])
    monkeypatch.setattr(
        "gpt.apps.harness_texts.TextEngine.complete",
        lambda self, prompts, sampling, samples, stops: seen.append(stops) or iter(()),
    )
    ours.generate_until(asked("generate_until", (context, {"until": ["#"], "max_gen_toks": 9})), True)
    ours.generate_until(asked("generate_until", ("no talk", {"until": ["#"], "max_gen_toks": 9})), True)
    assert seen == [("#", *honest.stops), ("#",)]


def test_a_run_without_a_template_refuses_one(pair):
    ours = HarnessModel(run=pair[0], device="cpu")
    with pytest.raises(InputError, match="has no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "Why?"}])
    with pytest.raises(InputError, match="has no chat template"):
        ours.chat_template(True)
    assert ours.chat_template(False) is None


def test_tokenizers_and_templates_have_names_of_their_own(pair, talker):
    name = HarnessModel(run=pair[0], device="cpu").tokenizer_name
    assert name != talker.tokenizer_name
    assert "/" not in name


# ---- how it is called ----


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"pretrained": "gpt2"}, "there is no pretrained; there are run, checkpoint, dtype"),
        ({"dtype": "float8"}, "dtype is 'float8'; it must be auto, float32, bfloat16, float16, int8"),
        ({"batch_size": 0}, "batch_size is 0; it must be a number from 1 on, or auto"),
        ({"batch_size": "many"}, "batch_size is 'many'"),
        ({"max_length": 2000}, "max_length is 2000; it must be from 1 to the context, 1,024"),
        ({"run": "no/such/run"}, "no/such/run"),
        ({"checkpoint": 7}, "`checkpoint` 7"),
    ],
)
def test_arguments_that_cannot_be_are_refused(pair, given, complaint):
    with pytest.raises(InputError, match=complaint):
        HarnessModel(**({"run": pair[0], "device": "cpu"} | given))


def test_the_harness_default_device_need_not_be_there(pair, monkeypatch, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert HarnessModel(run=pair[0], device="cuda:0").device in ("cpu", "mps")
    assert any("there is no CUDA here" in line for line in said)


def test_a_process_alone_gathers_what_it_has(pair):
    ours = HarnessModel(run=pair[0], device="cpu")
    assert (ours.rank, ours.world_size) == (0, 1)
    assert ours.all_gather(torch.tensor(3)) == 3
    assert ours.gather_object({"a": 1}) == [{"a": 1}]
    ours.barrier()


def test_answers_reach_the_harness_cache(pair):
    ours, kept = HarnessModel(run=pair[0], device="cpu"), []
    ours.cache_hook = type("Hook", (), {"add_partial": lambda self, *given: kept.append(given)})()
    (likely,) = ours.loglikelihood(asked("loglikelihood", ("a", " b")), True)
    (whole,) = ours.loglikelihood_rolling(asked("loglikelihood_rolling", ("ab",)), True)
    (text,) = ours.generate_until(asked("generate_until", ("a", {"max_gen_toks": 3})), True)
    assert kept == [
        ("loglikelihood", ("a", " b"), likely),
        ("loglikelihood_rolling", ("ab",), whole),
        ("generate_until", ("a", {"max_gen_toks": 3}), text),
    ]


def test_a_vocabulary_without_end_of_text_begins_with_a_line(tmp_path):
    letters = Tokenizer.char("ab\n", end_of_text=False)
    ours = HarnessModel(run=opinionated_run(tmp_path / "run", letters, 48), device="cpu")
    assert ours.eot_token_id == letters.encode("\n")[0]
    assert ours.loglikelihood(asked("loglikelihood", ("", "ab")), True)[0][0] < 0
    with pytest.raises(InputError, match="lacks: 'c'"):
        ours.loglikelihood(asked("loglikelihood", ("a", "c")), True)
