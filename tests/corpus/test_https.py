"""What is followed, what is tried again, and what is refused, with an independent server or a transport of its own."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx2
import pytest
import web as faulty
from helpers import heard

from gpt.corpus import https
from gpt.corpus.https import Failed, get, new_client, persistently, seconds_to_wait
from gpt.errors import InputError


def client_of(routes):
    """A client that gets its answers from a dictionary, and the list of requests it makes."""
    requests = []

    def respond(request):
        requests.append(request)
        return routes[str(request.url)]

    return httpx2.Client(transport=httpx2.MockTransport(respond)), requests


def leads(to, status=302):
    return httpx2.Response(status, headers={"Location": to})


def content_of(client, url, **headers):
    with get(client, url, headers) as response:
        return response.read()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_to_https_are_followed_and_the_token_stays_at_the_first_host(status):
    there = {"https://a/x": leads("/y", status), "https://a/y": leads("https://b/", status)}
    client, requests = client_of(there | {"https://b/": httpx2.Response(200, content=b"found")})
    assert content_of(client, "https://a/x", Authorization="Bearer T", Range="bytes=5-") == b"found"
    assert [request.headers.get("Authorization") for request in requests] == ["Bearer T", "Bearer T", None]
    assert [request.headers["Range"] for request in requests] == ["bytes=5-"] * 3


@pytest.mark.parametrize(
    ("begin", "to"),
    [
        ("https://a/", "http://a/"),
        ("https://a/", "http://b/"),
        ("https://a/", "ftp://b/"),
        ("https://a/", "file:///etc/passwd"),
        ("http://a/", "http://b/"),
        ("http://a/", "file:///etc/passwd"),
    ],
)
def test_a_redirect_to_anything_but_https_is_refused_before_it_is_asked(begin, to):
    client, requests = client_of({begin: leads(to), to: httpx2.Response(200)})
    with pytest.raises(InputError, match=rf"leads to {to.partition(':')[0]}://\w+, and is followed to https alone"):
        content_of(client, begin)
    assert len(requests) == 1


def test_an_address_that_is_http_itself_may_lead_to_https_or_to_its_own_host():
    there = {"http://a/": leads("http://a/2"), "http://a/2": leads("https://b/")}
    client, _ = client_of(there | {"https://b/": httpx2.Response(200, content=b"found")})
    assert content_of(client, "http://a/") == b"found"


def test_redirects_end():
    client, requests = client_of({"https://a/": leads("https://a/")})
    with pytest.raises(InputError, match="leads from one address to the next, more than 10 times"):
        content_of(client, "https://a/")
    assert len(requests) == 11


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "answers 401 Unauthorized; what is private, or is not there, needs a token: hf auth login"),
        (403, "answers 403 Forbidden; it may need a token, or a license that is accepted on its page"),
        (404, "answers 404 Not Found; there is no such file"),
        (407, "the proxy wants a name and a password"),
        (410, "answers 410 Gone$"),
        (204, "answers 204 No Content$"),
        (302, "answers 302 Found$"),
    ],
)
def test_what_no_other_try_would_change_is_refused_with_the_reason(status, words):
    client, _ = client_of({"https://a/x": httpx2.Response(status)})
    with pytest.raises(InputError, match=f"^https://a/x: .*{words}"):
        content_of(client, "https://a/x")


def test_the_host_that_refuses_is_named_without_what_its_address_reveals():
    there = {"https://a/x": leads("https://b/x?signature=secret"), "https://b/x?signature=secret": httpx2.Response(403)}
    with pytest.raises(InputError, match="^https://a/x: answers 403 Forbidden at b, to which it leads;") as raised:
        content_of(client_of(there)[0], "https://a/x")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again_after_the_time_that_the_server_wants(status):
    client, _ = client_of({"https://a/x": httpx2.Response(status, headers={"Retry-After": "9"})})
    with pytest.raises(Failed, match=f"answers {status}") as raised:
        content_of(client, "https://a/x")
    assert raised.value.wait == 9.0


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (httpx2.ReadTimeout("timed out"), Failed, "no answer for 30 seconds"),
        (httpx2.ConnectTimeout("timed out"), Failed, "no answer for 30 seconds"),
        (httpx2.ConnectError("[Errno 111] Connection refused"), Failed, "Connection refused"),
        (httpx2.RemoteProtocolError(""), Failed, "RemoteProtocolError"),
        (httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed"), InputError, "by its certificate"),
    ],
)
def test_errors_of_the_way_are_told_from_those_that_stay(error, kind, words):
    def fail(request):
        raise error

    with pytest.raises(kind, match=words):
        content_of(httpx2.Client(transport=httpx2.MockTransport(fail)), "https://a/")


@pytest.mark.parametrize("url", ["ftp://a/x", "a/x", "https://a:port/"])
def test_what_is_no_address_is_refused(url):
    with new_client() as client, pytest.raises(InputError, match="is no address on the web"):
        content_of(client, url)


def test_a_server_that_falls_silent_is_noticed(web, monkeypatch):
    web.files["/x"], web.spoilt = b"content", "/x"
    web.faults[:] = [lambda *_: time.sleep(0.5), faulty.drop]
    with monkeypatch.context() as patch:
        patch.setattr(https, "SILENCE_SECONDS", 0.05)
        with new_client() as client, pytest.raises(Failed, match="no answer for 0 seconds"):
            content_of(client, web.url("/x"))
    with new_client() as client:
        with pytest.raises(Failed, match="peer closed connection without sending complete message body"):
            content_of(client, web.url("/x"))
        assert content_of(client, web.url("/x")) == b"content"
    assert web.requests[0][1]["Accept-Encoding"] == "identity"


def test_nobody_listens(web):
    with new_client() as client, pytest.raises(Failed, match="refused"):
        content_of(client, "http://127.0.0.1:1/")


def test_the_proxy_of_the_environment_is_used(web, monkeypatch):
    monkeypatch.setenv("http_proxy", web.url(""))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    web.files["http://example.org/x"] = b"by proxy"
    with new_client() as client:
        assert content_of(client, "http://example.org/x") == b"by proxy"


def test_a_proxy_that_is_none_is_refused(web, monkeypatch):
    monkeypatch.setenv("https_proxy", "gopher://proxy")
    with pytest.raises(InputError, match="the proxy that the environment names .* cannot be used"):
        new_client()


def test_certificates_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(InputError, match="the certificates cannot be read .*; look at SSL_CERT_FILE"):
        https.certificates.__wrapped__()


def test_retry_after_is_seconds_or_a_date():
    date = datetime.now(UTC) + timedelta(seconds=90)
    assert seconds_to_wait("7") == 7.0
    assert 88 <= seconds_to_wait(format_datetime(date, usegmt=True)) <= 90
    assert seconds_to_wait("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert [seconds_to_wait(text) for text in (None, "", "soon", "-1", "1.5", "nan", "٣")] == [None] * 7


def failing(*failures):
    """Something that fails so often, and then returns 'done'."""
    left = list(failures)

    def attempt():
        if left:
            raise left.pop(0)
        return "done"

    return attempt


def test_pauses_grow_and_end(web):
    assert persistently(failing(*[Failed("no")] * 5), "https://a/") == "done"
    assert web.pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    with heard() as lines, pytest.raises(InputError, match="^https://a/: no, 6 times one after another"):
        persistently(failing(*[Failed("no")] * 6), "https://a/")
    assert lines[0] == "https://a/: no; trying again in 1 s"
    assert len(lines) == 5


def test_who_asks_for_a_pause_gets_it_unless_it_is_long(web):
    assert persistently(failing(Failed("busy", 300.0), Failed("busy", 0.0)), "https://a/") == "done"
    assert web.pauses == [300.0, 0.0]
    with pytest.raises(InputError, match="busy, and asks to be left alone for 3,600 seconds"):
        persistently(failing(Failed("busy", 3600.0)), "https://a/")


def test_tries_that_bring_something_are_not_counted(web):
    sizes = iter([0, *range(1, 11), 10, 10, 10, 10, 10])
    with pytest.raises(InputError):
        persistently(failing(*[Failed("no")] * 99), "https://a/", lambda: next(sizes))
    assert web.pauses == [1.0] * 10 + [2.0, 4.0, 8.0, 16.0]
