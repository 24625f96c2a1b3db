"""Ids decoded one by one, as a text grows."""

import codecs
from collections.abc import Callable


class StreamDecoder:
    """Decodes ids one by one. A character whose bytes span tokens comes out whole, with its last byte."""

    def __init__(self, token_bytes: Callable[[int], bytes]) -> None:
        """`token_bytes` is a tokenizer's."""
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """Return the text that the id completes."""
        return self._decoder.decode(self._token_bytes(token))

    def finish(self) -> str:
        """Return U+FFFD if the last character was left unfinished, else ''."""
        return self._decoder.decode(b"", final=True)
