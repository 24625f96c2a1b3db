"""GET over HTTPS: redirects that stay safe, and another try where a server, or the way to it, fails for a moment."""

import contextlib
import ssl
import time
from collections.abc import Callable, Generator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import cache
from time import sleep
from typing import TYPE_CHECKING, TypeVar

from gpt.errors import InputError
from gpt.log import log
from gpt.terminal import one_line

if TYPE_CHECKING:
    import httpx2

TRIES = 6  # one after another that bring nothing
SILENCE_SECONDS = 30.0  # of a server, after which it counts as dead
LONGEST_PAUSE_SECONDS = 60.0  # of our own choice, between two tries
LONGEST_WAIT_SECONDS = 300.0  # that a server may ask for
MAX_REDIRECTS = 10
PASSING = (408, 425, 429, 500, 502, 503, 504)  # what a server answers when another try may succeed
RANGE_NOT_SATISFIABLE = 416
T = TypeVar("T")


class Failed(Exception):
    """A try failed, and another may succeed; `wait` is how many seconds the server wants to be left alone."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


def new_client() -> "httpx2.Client":
    """Return a client, which uses the proxies that the environment names. Raises InputError where that cannot be."""
    import httpx2

    headers, trusted = {"Accept-Encoding": "identity"}, certificates()
    try:
        return httpx2.Client(timeout=SILENCE_SECONDS, headers=headers, verify=trusted)
    except (ValueError, ImportError, httpx2.InvalidURL) as error:  # an unknown kind, or SOCKS without its library
        names = "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY"
        raise InputError(f"the proxy that the environment names ({names}) cannot be used: {error}") from None


@cache
def certificates() -> ssl.SSLContext:
    """Read whom to trust, which takes longer than a request, once. Raises InputError if that cannot be read."""
    import httpx2

    try:
        return httpx2.create_ssl_context()
    except OSError as error:
        raise InputError(f"the certificates cannot be read ({error}); look at SSL_CERT_FILE and SSL_CERT_DIR") from None


@contextlib.contextmanager
def get(client: "httpx2.Client", url: str, headers: Mapping[str, str]) -> Generator["httpx2.Response"]:
    """Give the answer to a GET: 200, 206, or 416. Its content is not read yet, and may be read within the context.

    Raises Failed where another try may succeed, also from within the context, and InputError where none will.
    """
    import httpx2

    try:
        response = _answer(client, client.build_request("GET", url, headers=headers))
        with contextlib.closing(response):
            _require_content(response, url)
            yield response
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
        raise InputError(f"{url}: is no address on the web ({error})") from None
    except httpx2.TimeoutException:
        raise Failed(f"no answer for {SILENCE_SECONDS:.0f} seconds") from None
    except httpx2.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise InputError(f"{url}: is not the server that it should be, by its certificate ({error})") from None
        raise Failed(one_line(str(error)) or type(error).__name__) from None


def _answer(client: "httpx2.Client", request: "httpx2.Request") -> "httpx2.Response":
    """Send a request, and follow where it leads. A token goes to the first host alone: the client sees to that."""
    first = request.url
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(request, stream=True)
        if response.next_request is None:
            return response
        response.close()
        request = response.next_request
        as_it_was = request.url.scheme == first.scheme and request.url.host == first.host
        if request.url.scheme != "https" and not as_it_was:
            to = one_line(f"{request.url.scheme}://{request.url.host}")
            raise InputError(f"{first}: leads to {to}, and is followed to https alone; nothing was read from there")
    raise InputError(f"{first}: leads from one address to the next, more than {MAX_REDIRECTS} times")


def _require_content(response: "httpx2.Response", url: str) -> None:
    """Raise Failed or InputError for an answer that brings nothing."""
    status = response.status_code
    if status in (200, 206, RANGE_NOT_SATISFIABLE):
        return
    host = "" if response.url.host in url else f" at {response.url.host}, to which it leads"
    said = one_line(f"answers {status} {response.reason_phrase}").rstrip() + host
    if status in PASSING:
        raise Failed(said, seconds_to_wait(response.headers.get("Retry-After")))
    advice = {
        401: "; what is private, or is not there, needs a token: hf auth login, or HF_TOKEN in the environment",
        403: "; it may need a token, or a license that is accepted on its page: hf auth login, or HF_TOKEN",
        404: "; there is no such file, or no such version of it",
        407: "; the proxy wants a name and a password: HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT",
    }
    raise InputError(f"{url}: {said}{advice.get(status, '')}")


def seconds_to_wait(retry_after: str | None) -> float | None:
    """Return what a Retry-After says, in seconds or as a date (RFC 9110, 10.2.3); None where it says nothing."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() - time.time())


def persistently(attempt: Callable[[], T], url: str, reached: Callable[[], int] = lambda: 0) -> T:
    """Return what `attempt` does, called again while it raises Failed, after pauses that grow, or that a server sets.

    `reached` says how many bytes are here: a try that brings more than ever before begins the count of tries anew.
    Raises InputError after six tries that brought nothing, and where a server wants to be left alone for long.
    """
    failures, furthest = 0, reached()
    while True:
        try:
            return attempt()
        except Failed as failed:
            reason, wait = str(failed), failed.wait
        now = reached()
        failures = 1 if now > furthest else failures + 1
        furthest = max(furthest, now)
        if failures == TRIES:
            raise InputError(f"{url}: {reason}, {TRIES} times one after another; the same command goes on later")
        if wait is None:
            wait = min(LONGEST_PAUSE_SECONDS, 2.0 ** (failures - 1))
        if wait > LONGEST_WAIT_SECONDS:
            raise InputError(
                f"{url}: {reason}, and asks to be left alone for {wait:,.0f} seconds; the same command goes on then"
            )
        log.info(f"{url}: {reason}; trying again in {wait:.0f} s")
        sleep(wait)
