"""What a source holds, from a look of seconds at a part of it. Nothing is written.

1. Of a corpus larger than the budget, files are taken in the order of a hash of their names, until it is used up.
2. Of a large file, the beginning is read: as much of it as the budget is of the corpus.
3. What was found in files of a format is reckoned up by the bytes of that format: an estimate of all there is, and the
   same each time.
"""

import contextlib
import hashlib
import re
from collections import Counter, defaultdict
from typing import Any

from gpt.corpus.beginnings import LEAST, Beginnings, suffixes_of
from gpt.corpus.documents import CUT, Document, Notice, Skipped, hash_fraction
from gpt.corpus.ledger import kind_of
from gpt.corpus.reading import Filters
from gpt.corpus.secrets import count_addresses, secrets
from gpt.corpus.sources import Identity, Source, TextFiles
from gpt.corpus.unpacking import HIDDEN
from gpt.errors import InputError
from gpt.log import Progress

MOST_NAMED = 3  # secrets of each kind
PROPOSAL = re.compile(r"give it by `encoding` (\S+)")  # by encodings.py


class Preview:
    """What was found.

    `formats` counts all files, `bytes` all bytes. The rest is of what was read: `counts` has documents, characters,
    text_bytes, repeated (documents), faults (what was left out in reading), addresses, read_files and read_bytes;
    `encodings` counts files, `secrets` likely ones by kind, and `reasons` what was left out, of which `examples` has
    one each; `places` says where the first secrets are, `proposed` are files by the encoding that each seems
    to have, and `passages` are the texts. `estimate` is of all there is.
    """

    def __init__(self, source: Source, filters: Filters, progress: Progress, budget: int) -> None:
        """Look at a source; `budget` is in bytes, that are read or come of them."""
        self.counts, self.secrets, self.places = Counter[str](), Counter[str](), list[str]()
        self.formats, self.encodings, self.reasons = Counter[str](), Counter[str](), Counter[str]()
        self.examples, self.notices, self.passages = dict[str, Skipped](), list[Notice](), list[str]()
        self.proposed = defaultdict[str, list[str]](list)
        self.files = self.bytes = self.validation_bytes = 0
        self._of_formats = defaultdict[str, dict[str, float]](lambda: defaultdict(float))  # the same counts, and bytes
        self.goes_on = False  # a pipe does, of which nobody knows how much more there is
        self.documents = list[Document]()  # those of which only a part is to be learned
        self._filters, self._seen = filters, set[bytes]()
        progress.doing = "looking for files"
        files = Beginnings(source) if isinstance(source, TextFiles) else None
        found = (files or source).parts()
        for left in found:
            if isinstance(left, Skipped):
                self._leave_out(left)
        parts = [(part, source.identity(part)) for part in found if not isinstance(part, Skipped)]
        for _, identity in parts:
            self.formats[_format(identity.name)] += 1
            self._of_formats[_format(identity.name)]["bytes"] += identity.bytes
            self.bytes += identity.bytes
            self.validation_bytes += identity.bytes if identity.validates else 0
        self.files, used = len(parts), 0
        if self.bytes > budget:
            parts.sort(key=lambda pair: hash_fraction(pair[1].name))
        for number, (part, identity) in enumerate(parts):
            if used >= budget:
                break
            progress.doing = f"looked at {number:,} of {len(parts):,} files"
            before = self.counts.copy()
            if files:
                self._read(files, part, identity, min(1.0, budget / max(1, self.bytes)))
            else:
                self._read_whole(source, part, identity)
            found = self.counts - before
            for key, count in found.items():
                self._of_formats[_format(identity.name)][key] += count
            if files and files.is_cut and found["documents"] == 1:  # of which there is no more: the file is one
                self._of_formats[_format(identity.name)]["documents"] += found["read_bytes"] / identity.bytes - 1
            used += max(found["text_bytes"], min(found["read_bytes"], LEAST))

    def estimate(self, name: str) -> int:
        """Reckon a count up to all there is. Formats of which no file was read are taken to be as the others."""
        known = [counts for counts in self._of_formats.values() if counts["read_bytes"]]
        found = sum(counts[name] * max(1.0, counts["bytes"] / counts["read_bytes"]) for counts in known)
        size = sum(max(counts["bytes"], counts["read_bytes"]) for counts in known)
        return round(found * max(1.0, self.bytes / size)) if size else 0

    @property
    def is_complete(self) -> bool:
        """Tell whether all was read, so that nothing is an estimate."""
        return self.counts["read_bytes"] >= self.bytes and not self.goes_on

    @property
    def mean_bytes(self) -> float:
        """The size of a document, of which there may be more than what was read."""
        return self.estimate("text_bytes") / max(1, self.estimate("documents") - self.estimate("repeated"))

    def _read_whole(self, source: Source, part: Any, identity: Identity) -> None:
        for found in source.read(part):
            self._take(found)
        self.counts["read_files"] += 1
        self.counts["read_bytes"] += identity.bytes

    def _read(self, files: Beginnings, part: Any, identity: Identity, share: float) -> None:
        """Read the beginning of a file."""
        before = self.counts.copy()
        with contextlib.closing(files.beginning(part, share)) as items:
            try:
                for found in items:
                    self._take(found)
            except InputError as error:  # with which preparing would end
                self._leave_out(Skipped(identity.name, str(error)))
        if self.counts["documents"] > before["documents"] and files.encoding:
            self.encodings[files.encoding] += 1
        self.counts["read_files"] += 1
        size = files.read_bytes
        if part.is_pipe:  # whose bytes nobody knows
            size = (self.counts - before)["text_bytes"]
            self.bytes, self.goes_on = self.bytes + size, self.goes_on or files.is_cut
        self.counts["read_bytes"] += size

    def _take(self, found: Document | Skipped | Notice) -> None:
        """Count what was found."""
        if isinstance(found, Notice):
            if found.kind != CUT:
                self.notices.append(found)
            return
        kept = self._filters(found) if isinstance(found, Document) else found
        if isinstance(kept, Skipped):
            self.counts["faults"] += kept.reason != HIDDEN
            self._leave_out(kept)
            return
        content = kept.text.encode()
        self.counts["documents"] += 1
        learned = str((kept.learned, kept.specials)).encode() if kept.learned else b""
        digest = hashlib.blake2b(content + learned, digest_size=16).digest()
        if digest in self._seen:
            self.counts["repeated"] += 1
            return
        self._seen.add(digest)
        self.counts["characters"] += len(kept.text)
        self.counts["text_bytes"] += len(content)
        self.counts["addresses"] += count_addresses(kept.text)
        for secret in secrets(kept.text):
            self.secrets[secret.kind] += 1
            if self.secrets[secret.kind] <= MOST_NAMED:
                self.places.append(f"{secret.kind}: {kept.name}, line {secret.line}")
        self.passages.append(kept.text)
        self.documents += [kept] if kept.learned else []

    def _leave_out(self, left: Skipped) -> None:
        kind = kind_of(left.reason)
        self.reasons[kind] += 1
        self.examples.setdefault(kind, left)
        if proposal := PROPOSAL.search(left.reason):
            self.proposed[proposal[1]].append(left.name)


def _format(name: str) -> str:
    """Name the format of a file by the ends of its name, as .jsonl.gz."""
    return "".join(dict.fromkeys(suffixes_of(name))) or "no suffix"
