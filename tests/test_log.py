import hashlib
import time

from gpt import log as log_module
from gpt.log import Progress


def test_long_work_is_heard_of_while_a_library_holds_the_main_thread(monkeypatch, said):
    monkeypatch.setattr(log_module, "EVERY_SECONDS", 0.05)
    with Progress() as doing:
        doing.doing = "read 3 of 7 files"
        hashlib.pbkdf2_hmac("sha256", b"", b"", 10**6)
    assert len(said) > 2
    assert said[0] == "read 3 of 7 files (0 s)"
    heard = len(said)
    time.sleep(0.2)
    assert len(said) == heard


def test_short_work_is_silent(said):
    with Progress() as doing:
        doing.doing = "reading"
    assert said == []
