"""What templates of strangers may take: time, memory and letters are bounded, in a thread too."""

import re
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import from_version

from gpt import InputError
from gpt.text import jinja_sandbox
from gpt.text.chat_template import CHATML_SOURCE, Message
from gpt.text.jinja_sandbox import compiled
from gpt.text.templates import named_source, template_of

TOO_LARGE = {  # each makes gigabytes of little, at once or by and by
    "a text times a number": "{{ 'a' * 10 ** 10 }}",
    "a number times a list": "{{ (10 ** 10 * [1]) | length }}",
    "a text doubled": "{% set ns = namespace(a='x') %}{% for _ in range(60) %}{% set ns.a = ns.a ~ ns.a %}{% endfor %}",
    "a text added": "{% set ns = namespace(a='x') %}{% for _ in range(60) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
    "a list of itself": "{% set ns = namespace(a=[]) %}{% for _ in range(60) %}"
    "{% set ns.a = [ns.a, ns.a] %}{% endfor %}",
    "namespaces in namespaces": "{% set ns = namespace(a=1) %}{% for _ in range(60) %}{% set x = namespace(b=ns.a) %}"
    "{% set x.c = ns.a %}{% set ns.a = x %}{% endfor %}{{ ns.a }}",
    "a namespace in itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns ~ '' }}",
    "letters of the template": "{% macro m() %}{% for _ in range(100000) %}" + "x" * 9999 + "{% endfor %}{% endmacro %}"
    "{{ m() | length }}",
    "a constant": "{% set m %}{% for _ in range(100000) %}{{ '"
    + "x" * 9999
    + "' }}{% endfor %}{% endset %}{{ m | length }}",
    "replace": "{% set a = 'x' * 99999 %}{{ a.replace('', a) | length }}",
    "replace, a filter": "{% set a = 'x' * 99999 %}{{ a | replace(new=a, old='x') | length }}",
    "join": "{% set a = 'x' * 99999 %}{{ a.join(a) | length }}",
    "join of what comes late": "{% set a = 'x' * 9999999 %}{{ ['x'] * 99 | map('string') | join(a) | length }}",
    "join, a filter": "{% set a = 'x' * 99999 %}{{ a | join(d=a) | length }}",
    "map": "{% set a = 'x' * 9999999 %}{{ range(99999) | map('replace', '1', a) | list | length }}",
    "map's default": "{% set a = 'x' * 9999999 %}{{ range(99999) | map(attribute='q', default=a) | join | length }}",
    "indent": "{{ 'x\n' | indent(10 ** 10) }}",
    "indent by a text": "{% set a = 'x\n' * 99999 %}{{ a | indent('y' * 99999) | length }}",
    "indent of JSON": "{{ [[1]] | tojson(indent=10 ** 10) }}",
    "slices": "{% set a = 'x' * 9999999 %}" + "".join(f"{{% set a{n} = a[1:] %}}" for n in range(99)),
    "dict": "{{ dict.fromkeys(range(99999), 'x' * 99999) | string | length }}",
}
LARGE_NUMBERS = {
    "power": "{{ 10 ** 10 ** 10 }}",
    "squares": "{% set ns = namespace(a=3) %}{% for _ in range(99) %}{% set ns.a = ns.a * ns.a %}{% endfor %}",
}
TOO_LONG = {
    "loops": "{% for _ in range(100000) %}{% for _ in range(100000) %}{% endfor %}{% endfor %}",
    "loops that find nothing": "{% for _ in range(100000) %}"
    "{% for _ in range(100000) if false %}{% endfor %}{% endfor %}",
    "macros": "{% macro a0() %}x{% endmacro %}"
    + "".join(f"{{% macro a{n + 1}() %}}{{{{ a{n}() }}}}{{{{ a{n}() }}}}{{% endmacro %}}" for n in range(40))
    + "{{ a40() }}",
    "blocks": "".join(
        f"{{% block a{n} %}}{{{{ self.a{n + 1}() }}}}{{{{ self.a{n + 1}() }}}}{{% endblock %}}" for n in range(40)
    )
    + "{% block a40 %}{% endblock %}",
    "a loop in itself": "{% for _ in [1, 2] recursive %}{{ loop([1, 2]) if loop.depth < 60 }}{% endfor %}",
    "comparing": "{% set a = 'x' * 300000 %}{% set b = a ~ '' %}"
    "{% for _ in range(100000) %}{% set c = a == b %}{% endfor %}",
    "a test": "{% set a = 'x' * 300000 %}{{ (range(100000) | map('string') | select('in', a)) | list | length }}",
}
ABSENT = {
    "center": "{{ 'x' | center(10 ** 10) }}",
    "unsafe": "{{ 'x'.ljust(10 ** 10) }}",
    "'format' of 'str' object is unsafe": "{{ ('{:9999999999}' | attr('format'))(1) }}",
    "access to attribute 'format' of": "{{ '{:9999999999}'['format'](1) }}",
    "'to_bytes' of 'int' object is unsafe": "{{ (1).to_bytes(10 ** 10, 'big') }}",
    "striptags": "{{ '<' | striptags }}",
    "asks by strftime_now for today's date": "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% endif %}",
    "formats by %": "{{ '%9999999999d' % 1 }}",
    "'lipsum' is undefined": "{{ lipsum(10 ** 10) }}",
    "letters)": "x" * 1_000_001,
}
HOSTILE = {
    **{name: (source, "makes more than 2,000,000 letters") for name, source in TOO_LARGE.items()},
    **{name: (source, "numbers of more than 64 bits") for name, source in LARGE_NUMBERS.items()},
    **{name: (source, "takes more than 0.05 seconds") for name, source in TOO_LONG.items()},
    **{name: (source, name) for name, source in ABSENT.items()},
}


@pytest.fixture
def small(monkeypatch):
    """Let templates do less than usual, so that these tests are fast."""
    monkeypatch.setattr(jinja_sandbox, "MOST_MADE", 2_000_000)
    monkeypatch.setattr(jinja_sandbox, "MOST_SECONDS", 0.05)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_ends_soon_and_its_file_is_named(name, small, tmp_path, monkeypatch):
    source, said = HOSTILE[name]
    if name not in TOO_LONG:
        monkeypatch.setattr(jinja_sandbox, "MOST_SECONDS", 5.0)
    file = tmp_path / "theirs.jinja"
    file.write_text(source)
    with pytest.raises(InputError, match=f"`template` {re.escape(str(file))}: .*{re.escape(said)}"):
        named_source(str(file))


def test_bounds_hold_in_threads_and_each_has_its_own(small):
    source = CHATML_SOURCE + "{% if messages[0].content == 'loop' %}" + TOO_LONG["loops"] + "{% endif %}"
    template = template_of(source)

    def write(said):
        try:
            return template.render([Message("user", said), Message("assistant", "ho")])
        except InputError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(write, ["hi", "loop"] * 2))
    assert [type(one) for one in found[1::2]] == [str] * 2
    assert "takes more than 0.05 seconds" in found[1]
    assert found[::2] == [template.render([Message("user", "hi"), Message("assistant", "ho")])] * 2


def test_a_long_conversation_is_written_within_the_bounds():
    talk = [Message("user", "é" * 5000), Message("assistant", "x <| y |> z" * 500)] * 400  # 4 MB
    text = template_of(CHATML_SOURCE).prompt(talk)
    assert len(text) > 4e6
    assert len(text.specials) == 2 * len(talk) + 1


def test_each_rendering_begins_anew(small):
    """What one of them took is not missing to the next, nor is its time."""
    environment, template = compiled("{{ 'x' * 500000 }}")
    for _ in range(3):
        with environment.within_bounds():
            assert len(template.render()) == 500_000
    begun = time.thread_time()
    while time.thread_time() < begun + jinja_sandbox.MOST_SECONDS:
        pass
    with environment.within_bounds():
        template.render()


@from_version("transformers", "5.4", "compiles templates by another function")
def test_json_is_that_of_transformers():
    """Theirs escapes nothing for HTML, and takes the arguments of Python's."""
    library = pytest.importorskip("transformers.utils.chat_template_utils")
    source = "{{ x | tojson }}|{{ x | tojson(indent=2) }}|{{ x | tojson(ensure_ascii=true, separators=(',', ':')) }}"
    given = {"a": ["<b> & 'é'", None, 1.5, True, {}], "c": {"b": 2, "a": []}}
    environment, template = compiled(source)
    with environment.within_bounds():
        found = template.render(x=given)
    assert found == library._cached_compile_jinja_template(source).render(x=given)
