import pytest
import torch

from gpt import InputError, Tokenizer
from gpt.apps.harness_texts import generation_settings, marked, opening_of
from gpt.text.added import with_added
from gpt.text.chat_template import CHATML_SOURCE, PLAIN_SOURCE
from gpt.text.templates import template_of


@pytest.mark.parametrize(
    ("given", "temperature", "tokens", "stops"),
    [
        ({}, 0.0, 256, ()),
        ({"until": "x"}, 0.0, 256, ("x",)),
        ({"until": ["a", ""], "temperature": 0.0}, 0.0, 256, ("a",)),
        ({"temperature": 0.7, "max_tokens": 5}, 0.7, 5, ()),
        ({"do_sample": False, "temperature": 0.7}, 0.0, 256, ()),
        ({"do_sample": True, "num_beams": 1, "max_gen_toks": 9, "max_new_tokens": 8}, 1.0, 9, ()),
    ],
)
def test_settings_of_generation_are_the_harness_own(given, temperature, tokens, stops):
    sampling, found = generation_settings(given, 1024, 256)
    assert (sampling.temperature, sampling.max_tokens, found) == (temperature, tokens, stops)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"num_beams": 4}, "there is no num_beams above 1 here"),
        ({"typical_p": 0.9}, "there is no typical_p here; there are until, do_sample, max_gen_toks, temperature"),
        ({"max_gen_toks": 1024}, "max_gen_toks is 1,024 and the model sees 1,024"),
        ({"do_sample": True, "top_p": 2.0}, "`top_p`"),
    ],
)
def test_settings_of_generation_that_cannot_be_are_refused(given, complaint):
    with pytest.raises(InputError, match=complaint):
        generation_settings(given, 1024, 256)


def test_draws_are_those_of_torchs_seed():
    torch.manual_seed(5)
    assert generation_settings({}, 1024, 256)[0].seed == 5


def test_the_text_of_a_special_token_is_that_token():
    tokenizer = with_added(Tokenizer.utf8_bytes(), ["<|a|>", "<|a|>b"])
    found = marked("x<|a|>b<|endoftext|><|a|>", tokenizer).ids(tokenizer)
    assert found == [ord("x"), tokenizer.special_tokens["<|a|>b"], 256, tokenizer.special_tokens["<|a|>"]]
    letters = Tokenizer.char("<|a>", end_of_text=False)
    assert marked("<|a|>", letters).ids(letters) == letters.encode("<|a|>")


@pytest.mark.parametrize(
    ("source", "opening"),
    [(PLAIN_SOURCE, "\n### Assistant:\n"), (CHATML_SOURCE, "<|im_end|>\n<|im_start|>assistant\n")],
)
def test_an_answer_begins_after_what_the_template_writes(source, opening):
    assert opening_of(template_of(source)) == opening
