"""Likely secrets and e-mail addresses: what the issuers' documentation shows, and what only resembles it.

None of these ever was one; they are put together here, so that no scanner takes this file for a leak.
"""

import random
import string

import pytest

from gpt.corpus.secrets import Secret, count_addresses, secrets

LETTERS = "".join(random.Random(0).choices(string.ascii_letters + string.digits, k=80))
BIG = LETTERS.upper()
KNOWN = {
    "-----BEGIN " + "RSA PRIVATE KEY-----\nMIIE": "private key",
    "-----BEGIN " + "PRIVATE KEY-----": "private key",
    "AKIA" + BIG[:16]: "AWS access key",
    "ASIA" + BIG[:16]: "AWS access key",
    "ghp_" + LETTERS[:36]: "GitHub token",
    "github_pat_" + LETTERS[:22] + "_" + LETTERS[:59]: "GitHub token",
    "xoxb-" + "123456789012-" + LETTERS[:24]: "Slack token",
    "AIza" + LETTERS[:35]: "Google API key",
    "eyJ" + LETTERS[:30] + ".eyJ" + LETTERS[:50] + "." + LETTERS[:43]: "JSON Web Token",
    "sk-" + LETTERS[:48]: "OpenAI key",
    "sk-proj-" + LETTERS[:60]: "OpenAI key",
    'password = "hunter2hunter2"': "password",
    "DB_PASSWORD: 'correct-horse'": "password",
    '"api_key": "0123456789abcdef"': "password",
    "SECRET_KEY = 'django-insecure-1'": "password",
    "Ünder access-token='abcdefghij'": "password",
}
HARMLESS = [
    "-----BEGIN " + "PUBLIC KEY-----",
    "AKIA" + BIG[:15],
    "XAKIA" + BIG[:16],
    "AKIA" + BIG[:16] + "Z",
    "ghp_short",
    "task-management-of-the-2nd-and-3rd-order",
    "sk-learn-is-not-a-key-of-anybody-at-all",
    "eyJ and eyJ.eyJ.",
    "password = input('Password: ')",
    'password = ""',
    "the password is: not in quotes",
    "xox-game",
]


@pytest.mark.parametrize("text", KNOWN)
def test_a_likely_secret_is_named_with_its_line(text):
    for before, after in (("", ""), ("one\ntwo\n", "\nthree"), ("a = (", ")")):
        found = [*secrets(before + text + after)]
        assert found == [Secret(KNOWN[text], 1 + before.count("\n"))]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_one_is_none(text):
    assert [*secrets(f"x {text} y")] == []


def test_all_are_found_in_one_text():
    text = "\n".join(KNOWN)
    assert sorted(secret.kind for secret in secrets(text)) == sorted(KNOWN.values())


def test_nothing_of_a_secret_is_in_what_is_told_of_it():
    for text in KNOWN:
        for secret in secrets(text):
            assert LETTERS[:12] not in repr(secret) and "hunter" not in repr(secret)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("write to jo.e+list@mail.example.co.uk, or <a@b.org>", 2),
        ("root@localhost, @decorator, a @ b.com, user@, @example.com", 0),
        ("a@b.com.", 1),
        ("größe@beispiel.de", 1),
        ("nothing", 0),
    ],
)
def test_addresses_are_counted(text, count):
    assert count_addresses(text) == count


def test_hostile_texts_take_no_long_time():
    for text in ("eyJ" * 50_000, "sk-" * 50_000, "password" * 50_000, "a@" * 50_000, "a@" + "b." * 50_000):
        assert [*secrets(text)] == [] and count_addresses(text) == 0
