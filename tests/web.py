"""A server of files on this machine, which obeys HTTP or, where a test says so, breaks it; and a hub upon it."""

import contextlib
import hashlib
import json
import re
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Web:
    """Serves `files`, by their paths; `faults` are what goes wrong, one at each answer to a path that ends in `spoilt`.

    A fault is called with the handler and the bytes of the file, and answers in its place.
    """

    def __init__(self):
        self.files, self.etags, self.following = {}, {}, {}
        self.faults, self.spoilt, self.requests, self.pauses = [], "", [], []

    def etag(self, path):
        return self.etags.get(path, f'"{hashlib.sha256(self.files[path]).hexdigest()[:16]}"')

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def ranges(self):
        """The Range of each request for a spoilt file."""
        return [headers.get("Range") for path, headers in self.requests if path.endswith(self.spoilt)]


@contextlib.contextmanager
def serve():
    """A server, in a thread, until the end of the context."""
    web = Web()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            self.path = unquote(self.path.partition("?")[0])
            web.requests.append((self.path, self.headers))
            content = web.files.get(self.path)
            if content is None:
                answer(self, 404, b"not here")
            elif web.faults and self.path.endswith(web.spoilt):
                web.faults.pop(0)(self, content)
            else:
                honest(self, content)

        def log_message(self, *_):
            pass

    Handler.web = web
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # of clients that hang up
    web.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()


def answer(handler, status, body, length=None, **headers):
    """Send an answer; `length` is what it says of itself, and the connection ends after another one than the body's."""
    length = len(body) if length is None else length
    handler.send_response(status)
    for name, value in (headers | {"Content-Length": length}).items():
        if value != "":
            handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(body)
    handler.close_connection = handler.close_connection or length != len(body)


def honest(handler, content, share=1.0):
    """Answer as HTTP has it, Range and If-Range included; a share of the content comes before the line breaks."""
    etag, headers = handler.web.etag(handler.path), handler.headers
    begin, status, more = 0, 200, {}
    wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("Range", ""))
    if wanted and headers.get("If-Range", etag) == etag:
        begin, status = int(wanted[1]), 206
        more = {"Content_Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"}
        if begin >= len(content):
            return answer(handler, 416, b"", Content_Range=f"bytes */{len(content)}")
    if handler.path in handler.web.following:
        more["Link"] = f'<{handler.web.url(handler.web.following[handler.path])}>; rel="next"'
    body = content[begin:]
    return answer(handler, status, body[: int(len(body) * share)], len(body), ETag=etag, **more)


# ---- faults ----


def drop(handler, content):
    honest(handler, content, 0.4)


def short(handler, content):
    """Say that 40 % is all, and send that."""
    answer(handler, 200, content[: int(len(content) * 0.4)])


def long(handler, content):
    answer(handler, 200, content + b"and more")


def corrupt(handler, content):
    answer(handler, 200, content[:-1] + bytes([content[-1] ^ 1]))


def whole(handler, content):
    """200 instead of 206."""
    answer(handler, 200, content, ETag=handler.web.etag(handler.path))


def drop_of_whole(handler, content):
    """The same, of which less comes than is here."""
    answer(handler, 200, content[:100], len(content), ETag=handler.web.etag(handler.path))


def other_range(handler, content):
    extent = f"bytes 1-{len(content) - 1}/{len(content)}"
    answer(handler, 206, content[1:], ETag=handler.web.etag(handler.path), Content_Range=extent)


def moved(handler, content):
    answer(handler, 302, b"", Location=handler.path)


def other_version(handler, content):
    """Go on with another version, by its ETag, though this was not asked for."""
    begin = int(re.search(r"\d+", handler.headers["Range"])[0])
    extent = f"bytes {begin}-{len(content) - 1}/{len(content)}"
    answer(handler, 206, content[begin:], ETag='"other"', Content_Range=extent)


def renamed(handler, content):
    """The same content under a new ETag, from here on."""
    handler.web.etags[handler.path] = '"renamed"'
    honest(handler, content)


def busy(handler, content):
    answer(handler, 429, b"", Retry_After=7)


def down(handler, content):
    answer(handler, 503, b"", Retry_After=formatdate(time.time() + 12, usegmt=True))


def page(handler, content):
    answer(handler, 200, b"<html>We are sorry</html>", Content_Type="text/html")


def packed(handler, content):
    answer(handler, 200, content, Content_Encoding="gzip")


def to_another_scheme(handler, content):
    answer(handler, 302, b"", Location=f"ftp://127.0.0.1:{handler.web.port}{handler.path}")


# ---- the hub ----


def put_on_hub(web, repository, files, commit=COMMIT, branch="main"):
    """Serve files as a dataset's at a commit, with the lists of its folders, two files on a page."""
    web.files[f"/api/datasets/{repository}/revision/{branch}"] = json.dumps({"sha": commit}).encode()
    folders = {}
    for path, content in files.items():
        web.files[f"/datasets/{repository}/resolve/{commit}/{path}"] = content
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        entry = {"type": "file", "oid": "0" * 40, "size": len(content), "path": path, "lfs": lfs}
        folders.setdefault(path.rpartition("/")[0], []).append(entry)
    for folder, entries in folders.items():
        first = page = f"/api/datasets/{repository}/tree/{commit}/{folder}".rstrip("/")
        for start in range(0, len(entries), 2):
            content = [{"type": "directory", "oid": "1" * 40, "size": 0, "path": "sub"}, *entries[start : start + 2]]
            web.files[page] = json.dumps(content).encode()
            if entries[start + 2 :]:
                web.following[page] = page = f"{first}/page-{start + 2}"
