import time

import pytest
from corpus_files import skipped_in, texts_in

from gpt.corpus.readers import html
from gpt.corpus.readers.html import text_of

PAGE = """<!DOCTYPE html>
<html><head><title>Salt &amp; pepper</title><style>p > a { color: red }</style>
<script>if (a < b) document.write("<p>unseen</p>")</script></head>
<body><!-- unseen > --><h1>A  head</h1>
<p class="x > y">One <b>bold</b>
word, caf&eacute; &#x41;&lt;b&gt;.<p>Two<br>lines
<ul><li>first<li>second</ul>
<pre>  code
    indented</pre>
<table><tr><td>a</td><td>b</td></tr></table>
5 < 6 &unknown; </body></html>"""
TEXT = """Salt & pepper

A head

One bold word, café A<b>.

Two
lines

first
second

  code
    indented

a\tb

5 < 6 &unknown;
"""


def test_a_page_is_what_its_reader_sees():
    assert text_of(PAGE) == TEXT
    assert texts_in(PAGE.encode(), "x.HTM") == {"x.HTM": TEXT}
    assert texts_in(PAGE.encode(), "x.html", html="keep") == {"x.html": PAGE}


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("<p>a</P><SCRIPT>x</sCript >b", "a\n\nb\n"),
        ("<script src=x />a", "a\n"),
        ("a<script>b", "a\n"),
        ("a<!-- b", "a\n"),
        ("a<![if IE]>b<![foo[ c ]]>d", "abd\n"),
        ("a<?php b ?>c", "ac\n"),
        ("a <b", "a\n"),
        ("<p title='a>b' don't>c", "c\n"),
        ("a</>b<>c", "ab<>c\n"),
        ("x<sub>1</sub> <i> y </i> z", "x1 y z\n"),
        ("", "\n"),
    ],
)
def test_markup_that_is_odd_does_no_harm(page, text):
    assert text_of(page) == text


@pytest.mark.parametrize(
    "piece", ["<", "<a ", "<!--", "&", "<![CDATA[", "</", "<div>", "<a b='", "<pre> ", "= ", "<script>"]
)
def test_hostile_pages_take_linear_time(piece):
    begun = time.process_time()
    text_of(piece * 20_000)
    assert time.process_time() - begun < 1


def test_a_page_may_say_its_encoding():
    page = '<meta charset="windows-1252"><p>Müller'
    assert texts_in(page.encode("cp1252"), "x.html") == {"x.html": "Müller\n"}
    assert texts_in(page.replace("windows-1252", "utf-9").encode(), "x.html") == {"x.html": "Müller\n"}
    assert "not UTF-8" in skipped_in("<p>Müller".encode("cp1252"), "x.html")["x.html"]


def test_a_page_without_text_is_named():
    assert skipped_in(b"<script>x</script> ", "x.html") == {"x.html": "has no text beside its tags"}


def test_a_page_that_memory_does_not_hold_is_named(monkeypatch):
    monkeypatch.setattr(html, "LARGEST", 500)
    assert texts_in(b"<p>" + b"a" * 900, "x.html")
    (reason,) = skipped_in(b"<p>" + b"a" * 1000, "x.html").values()
    assert reason == "over 1,000 characters in a page; divide it, or keep its tags by `html` keep"
