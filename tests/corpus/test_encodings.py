import sys
import zipfile

import pytest
from corpus_files import skipped_in, texts_in

from gpt.corpus.documents import Document, ReadOptions
from gpt.corpus.encodings import advice
from gpt.corpus.sources import TextFiles
from gpt.errors import InputError

TEXTS = {
    "cp1252": "Il était une fois une pauvre fille élevée à la cour, où régnait un roi âgé.\n",
    "cp932": "これは日本語の文章です。吾輩は猫である。名前はまだ無い。\n",
    "euc_jp": "これは日本語の文章です。吾輩は猫である。名前はまだ無い。\n",
    "gb18030": "话说天下大势，分久必合，合久必分。周末七国分争，并入于秦。\n",
    "big5": "話說天下大勢，分久必合，合久必分。周末七國分爭，並入於秦。\n" * 3,
    "cp949": "모든 행복한 가정은 서로 닮았고 불행한 가정은 제각각 나름으로 불행하다.\n",
    "cp1251": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n",
    "koi8_r": "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.\n",
    "cp1253": "Όλες οι ευτυχισμένες οικογένειες μοιάζουν μεταξύ τους.\n",
}


@pytest.mark.parametrize(("encoding", "text"), TEXTS.items())
def test_the_likely_encoding_is_proposed_and_reads_the_text(encoding, text):
    pytest.importorskip("charset_normalizer", reason="the extra `data` proposes encodings")
    content = ("plain ASCII before it\n" * 3 + text).encode(encoding)
    assert f"give it by `encoding` {encoding}" in skipped_in(content)["x.txt"]
    assert texts_in(content, encoding=encoding)["x.txt"].endswith(text)


def test_other_likely_encodings_are_named_too():
    pytest.importorskip("charset_normalizer", reason="the extra `data` proposes encodings")
    assert "give it by `encoding` cp1252 (or perhaps" in advice("1,café\n".encode("latin-1"), 5)


def test_words_of_several_languages_have_a_proposal_too():
    pytest.importorskip("charset_normalizer", reason="the extra `data` proposes encodings")
    assert "give it by `encoding` cp1252" in skipped_in("déjà vu, café, Größe\n".encode("cp1252") * 20)["x.txt"]


def test_without_the_library_it_says_how_to_convert_a_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "charset_normalizer", None)
    reason = skipped_in("Müller".encode("latin-1"))["x.txt"]
    assert "convert it with iconv -f ENCODING -t utf-8 (latin1, shift_jis, gb18030, …)" in reason
    assert "pip install 'gpt[data]'" in reason


def test_what_no_encoding_explains_is_left_with_the_advice():
    assert "convert it with iconv" in skipped_in(bytes(range(128, 160)) * 9)["x.txt"]


@pytest.fixture
def mixed(tmp_path):
    """A folder with files of three encodings, one of them in an archive, and one in lines."""
    folder = tmp_path / "notes"
    (folder / "japan").mkdir(parents=True)
    for name, encoding in {"utf8.txt": "utf-8", "ansi.txt": "cp1252", "japan/a.txt": "cp932"}.items():
        (folder / name).write_bytes(TEXTS[encoding if encoding in TEXTS else "cp1252"].encode(encoding))
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr("dos/c.txt", "Müller, größer\n".encode("cp850"))
    (folder / "d.jsonl").write_bytes('{"text": "Müller"}\n'.encode("cp850"))
    return folder


def read_by_name(folder, encoding, field=None):
    files = TextFiles([folder], field, how=ReadOptions(encoding=encoding))
    found = [each for part in files.parts() for each in files.read(part)]
    return {each.name: each.text for each in found if isinstance(each, Document)}


def test_encodings_are_given_file_by_file(mixed):
    given = "japan/*=cp932,dos/*=cp850, *.jsonl=cp850 ,cp1252"
    assert read_by_name(mixed, given, "text") == {
        "notes/utf8.txt": TEXTS["cp1252"],
        "notes/ansi.txt": TEXTS["cp1252"],
        "notes/japan/a.txt": TEXTS["cp932"],
        "notes/b.zip/dos/c.txt": "Müller, größer\n",
        "notes/d.jsonl, line 1": "Müller",
    }
    assert "notes/japan/a.txt" not in read_by_name(mixed, "ansi.txt=cp1252")  # which is for that file alone


def test_the_first_that_fits_is_taken(mixed):
    assert read_by_name(mixed, "notes/ansi.txt=cp1252,*=latin-1")["notes/ansi.txt"] == TEXTS["cp1252"]
    assert read_by_name(mixed, "*=latin-1,cp932")["notes/japan/a.txt"] != TEXTS["cp932"]


def test_an_encoding_for_no_file_or_of_no_name_is_refused(mixed):
    with pytest.raises(InputError, match="`encoding` cp1253x: is no encoding that Python knows; did you mean 'cp1253'"):
        read_by_name(mixed, "a*=cp1252,b*=cp1253x")
    (mixed / "b.zip").unlink()  # of which nobody knows before it is read what is in it
    with pytest.raises(InputError, match=r"`encoding` china/\*=…: fits no file of the input; leave it out"):
        read_by_name(mixed, "china/*=gb18030,cp1252")


def test_a_file_that_is_divided_is_divided_by_its_own_encoding(tmp_path):
    text = "\n<|endoftext|>\n".join(f"Müller {number} " * 9 for number in range(9))
    (tmp_path / "a.txt").write_bytes(text.encode("utf-16-le"))
    (tmp_path / "b.txt").write_bytes(text.encode("cp1252"))
    files = TextFiles([tmp_path], how=ReadOptions(encoding="a.txt=utf-16-le,cp1252"))
    parts = [each for part in files.parts() for each in files.divided(part, 100)]
    found = [each for part in parts for each in files.read(part)]
    assert [each.text for each in found if isinstance(each, Document)] == 2 * text.split("\n<|endoftext|>\n")
    assert len(parts) > 2


def test_a_folder_of_several_encodings_is_named_file_by_file(tmp_path):
    """Also where a name is no UTF-8 itself."""
    pytest.importorskip("charset_normalizer", reason="the extra `data` proposes encodings")
    names = {"utf8.txt": "utf-8", "ansi.txt": "cp1252", "wide.txt": "utf-16", "japan.txt": "shift_jis"}
    for name, encoding in names.items():
        (tmp_path / name).write_bytes(TEXTS["cp932" if encoding == "shift_jis" else "cp1252"].encode(encoding))
    (tmp_path / b"caf\xe9.txt".decode(errors="surrogateescape")).write_bytes(b"text")
    files = TextFiles([tmp_path])
    found = {each.name.split("/")[1]: each for part in files.parts() for each in files.read(part)}
    assert found["utf8.txt"].text == found["wide.txt"].text == TEXTS["cp1252"]
    assert "windows-1252" in found["ansi.txt"].reason
    assert "cp932" in found["japan.txt"].reason
    assert found["caf\udce9.txt"].text == "text"
