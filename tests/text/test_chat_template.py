"""A conversation as text, which of it is learned, and that its parts have the ids of the whole."""

import random

import pytest
from helpers import random_text

from gpt.corpus.examples import parts_of
from gpt.text.chat_template import ROLES, Message, prompt, render
from gpt.text.tokenizer import Tokenizer


def of(*turns):
    return [Message(role, content) for role, content in turns]


def learned_of(messages):
    """The parts that are learned, None for end-of-text at their end."""
    text, spans = render(messages)
    return [text[start:stop] + "<END>" * (stop > len(text)) for start, stop in spans]


def test_a_conversation_is_written_so():
    messages = of(("system", "Be brief."), ("user", " Why?\n"), ("assistant", "Because."), ("user", "\nAnd now?"))
    text, spans = render([*messages, Message("assistant", "Now\ntoo.")])
    wanted = "### System:\nBe brief.\n### User:\nWhy?\n### Assistant:\nBecause.\n### User:\nAnd now?\n"
    assert text == wanted + "### Assistant:\nNow\ntoo."
    assert [text[slice(*span)] for span in spans] == ["Because.\n### User:", "Now\ntoo."]
    assert spans[-1][1] == len(text) + 1
    assert prompt(messages) == text.removesuffix("Now\ntoo.")
    assert prompt([]) == "### Assistant:\n"


def test_a_question_without_an_answer_is_not_learned_nor_is_the_end_after_it():
    assert learned_of(of(("assistant", "Hi!"), ("user", "x"))) == ["Hi!\n### User:"]
    assert learned_of(of(("user", "x"), ("assistant", "y"), ("system", "z"))) == ["y\n### System:"]
    assert learned_of(of(("user", "x"), ("assistant", "y"))) == ["y<END>"]


def reference(messages):
    """The text and, of each of its characters and of end-of-text, whether it is learned: turn by turn."""
    text, learned = "", []
    for number, (role, content) in enumerate(messages):
        line = (
            ("" if number == 0 else "\n")
            + {"system": "### System", "user": "### User"}.get(role, "### Assistant")
            + ":"
        )
        after_an_answer = number > 0 and messages[number - 1].role == "assistant"
        text += line
        learned += [after_an_answer] * len(line)
        body = "\n" + content.strip()
        text += body
        learned += [False] + [role == "assistant"] * (len(body) - 1)
    return text, [*learned, messages[-1].role == "assistant"]


def drawn(rng):
    """A conversation of random turns, with blanks around them and lines of the template in them."""
    contents = [random_text(rng, rng.randrange(30)) for _ in range(4)]
    contents += ["### User:\nme", "a <|endoftext|> b", "#", "\n### Assistant:", "...", "x" * rng.randrange(3)]
    return [
        Message(rng.choice([*ROLES]), rng.choice(["", " ", "\n\n"]) + rng.choice(contents))
        for _ in range(rng.randint(1, 6))
    ]


def test_what_is_learned_is_what_a_slow_reference_says():
    rng = random.Random(1)
    for _ in range(300):
        messages = drawn(rng)
        text, spans = render(messages)
        learned = [any(start <= place < stop for start, stop in spans) for place in range(len(text) + 1)]
        assert (text, learned) == reference(messages)


@pytest.mark.parametrize("kind", ["gpt2", "bpe", "bytes"])
def test_parts_have_the_ids_of_the_whole_and_begin_with_those_of_the_prompt(kind, request):
    """So an example is to the model what a sampled conversation is, which is encoded at once."""
    fixture = {"gpt2": "gpt2_tokenizer", "bpe": "bpe"}.get(kind)
    tokenizer = request.getfixturevalue(fixture) if fixture else Tokenizer.utf8_bytes()
    rng = random.Random(2)
    for _ in range(150):
        messages = [m for m in drawn(rng) if m.content.strip() or m.role != "assistant"]
        messages = [*messages, Message("assistant", "An answer.")]
        text, spans = render(messages)
        ids = [token for part, _ in parts_of(text, spans) for token in tokenizer.encode(part)]
        assert ids == tokenizer.encode(text)
        before = tokenizer.encode(prompt(messages[:-1]))
        assert ids[: len(before)] == before
