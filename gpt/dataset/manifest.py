"""What a dataset says of itself: manifest.json, or what can be told of shards that other programs wrote."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from gpt.dataset.masks import Mask
from gpt.dataset.shards import MASK, REPAIR, Shard, mask_name
from gpt.errors import InputError
from gpt.files import inside, read_json
from gpt.log import log
from gpt.text.tokenizer import Tokenizer

MANIFEST_VERSION, MASKED_VERSION = 1, 2  # of a dataset without masks, and with them
TEXTS = ("sample_prompt", "chat_template")  # of a recipe
SPLITS = ("train", "validation")
# Words of a file's name, not letters in it; the last one counts: train_of_books_val_0.bin
SPLIT_WORD = re.compile(r"(?<![A-Za-z])(train|training|val|valid|validation)(?![A-Za-z])")
MIN_IDS, MAX_IDS = 64, 1_000_000  # looked at to tell uint16 from uint32
Found = tuple[int, str]  # a shard's largest id, and the SHA-256 of its file


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one shard."""

    file: str
    split: str
    tokens: int
    documents: int
    text_bytes: int
    largest_id: int
    sha256: str

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of each file that it is in."""
        return {self.file: self.sha256}

    def called(self, file: str) -> "ShardInfo":
        """Give it another name."""
        return replace(self, file=file)


@dataclass(frozen=True)
class MaskedShardInfo(ShardInfo):
    """What the manifest says of a shard with a mask."""

    mask: str
    mask_sha256: str
    learned: int
    """Tokens that are learned; 0 where other programs wrote the mask."""

    @property
    def files(self) -> dict[str, str]:
        return {self.file: self.sha256, self.mask: self.mask_sha256}

    def called(self, file: str) -> "ShardInfo":
        return replace(self, file=file, mask=mask_name(file))


def shard_info(entry: dict[str, Any]) -> ShardInfo:
    """Return what an entry of a manifest says. Raises TypeError if that is nothing."""
    kind = MaskedShardInfo if "mask" in entry else ShardInfo
    has_fields = {key: type(value) for key, value in entry.items()} == {each.name: each.type for each in fields(kind)}
    if not has_fields or ("mask" in entry and entry["mask"] != mask_name(entry["file"])):
        raise TypeError(f"a shard is described by {entry}")
    return kind(**entry)


def write_manifest(
    path: Path,
    tokenizer: Tokenizer,
    shards: list[ShardInfo],
    recipe: dict[str, Any],
    corpus_fingerprint: str,
    records: dict[str, str],
) -> None:
    """Describe the dataset of a directory in its manifest.json.

    `corpus_fingerprint` names all that it was made of, and `records` are the SHA-256 of the files that tell of that.
    """
    entries = [asdict(shard) for shard in shards]
    manifest: dict[str, Any] = {"format": "gpt-dataset", "version": _version(entries)}
    manifest |= {"tokenizer_fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size}
    manifest |= {"shards": entries, "recipe": recipe, "corpus_fingerprint": corpus_fingerprint, "records": records}
    (path / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def fingerprint(tokenizer_fingerprint: str, shards: list[ShardInfo]) -> str:
    """Return the SHA-256 that names a dataset's content: equal for equal ids of equal tokenizers in equal shards."""
    content = json.dumps([tokenizer_fingerprint, [asdict(shard) for shard in shards]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a dataset's manifest.json. Raises InputError for one that is damaged, or of another version."""
    file = path / "manifest.json"
    manifest = read_json(file, "a manifest", REPAIR)
    try:
        wanted = _version(manifest["shards"])
        if manifest["version"] != wanted:
            of = "with" if wanted == MASKED_VERSION else "without"
            raise InputError(
                f"{file}: is of version {manifest['version']}, and this program reads {wanted}, {of} masks; {REPAIR}"
            )
        names = []
        for info in map(shard_info, manifest["shards"]):
            if info.split not in SPLITS:
                raise TypeError(f"a shard is of the split {info.split!r}")
            for name in info.files:
                _require_inside(path, name)
                names.append(name)
        if len(set(names)) < len(names):
            raise TypeError("a shard is named twice")
        texts = [manifest["tokenizer_fingerprint"], manifest.get("corpus_fingerprint", "")]
        texts += [*manifest.get("records", {}).values(), *(manifest.get("recipe", {}).get(n, "") for n in TEXTS)]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a fingerprint, a hash, the sample_prompt or the chat_template is no text")
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{file}: cannot be read as a manifest ({error!r}); {REPAIR}") from None
    return manifest


def _version(shards: list[dict[str, Any]]) -> int:
    """Tell of which version a manifest with these shards is."""
    return MASKED_VERSION if any("mask" in shard for shard in shards) else MANIFEST_VERSION


def _require_inside(path: Path, name: object) -> None:
    try:
        inside(path, name)
    except InputError as error:
        raise InputError(f"{error}; {REPAIR}") from None


@dataclass(frozen=True)
class Description:
    """A dataset before its shards are opened."""

    path: Path
    tokenizer: Tokenizer
    splits: dict[str, str]
    """The split of each file, by its name: of each shard, and after it of its mask."""
    masks: dict[str, str]
    """The shard of each mask, by the names of their files."""
    promised: dict[str, ShardInfo]
    """What the manifest says of the shard of each file; empty where other programs wrote them, and there is none."""
    recipe: dict[str, Any]
    corpus_fingerprint: str | None
    """Of all that it was made of; None where the manifest does not say it, or there is none."""

    def open(self, file: str) -> Shard:
        """Open a shard or a mask. Raises InputError unless header, size and manifest agree."""
        shard = (Mask if file in self.masks else Shard)(self.path / file)
        promised = self.promised.get(file)
        if promised and shard.tokens != promised.tokens:
            raise InputError(
                f"{shard.path}: holds {shard.tokens:,} tokens where manifest.json says {promised.tokens:,}; {REPAIR}"
            )
        return shard

    def scan(self, file: str, shard: Shard) -> Found:
        """Read a whole shard. Raises InputError for ids that only seem to be uint16."""
        if file not in self.promised and file not in self.masks:
            require_uint16(shard)
        return shard.scan()

    def require_intact(self, file: str, shard: Shard, largest: int, digest: str) -> None:
        """Raise InputError unless ids are of the vocabulary, and what was found is what the manifest says."""
        promised = self.promised.get(file)
        if isinstance(shard, Mask):
            shard.require_bits(largest)
        elif largest >= self.tokenizer.vocab_size:
            raise InputError(
                f"{shard.path}: holds the id {largest:,}, outside the tokenizer's vocabulary of "
                f"{self.tokenizer.vocab_size:,}: it was written with another tokenizer; {REPAIR}"
            )
        if promised and digest != promised.files[file]:
            raise InputError(
                f"{shard.path}: its SHA-256 is not the one in manifest.json: the file is damaged or was replaced; "
                f"{REPAIR}"
            )
        if promised and file not in self.masks and largest != promised.largest_id:
            raise InputError(
                f"{shard.path}: its largest id is {largest:,} where manifest.json says {promised.largest_id:,}; "
                f"{REPAIR}"
            )

    def require_learned(self, found: Mapping[str, Found]) -> None:
        """Raise InputError for a split of which, by its masks, no token is learned."""
        for split in set(self.splits.values()):
            own = [file for file, its in self.splits.items() if its == split]
            masks = [file for file in own if file in self.masks]
            if 2 * len(masks) == len(own) and not any(found[mask][0] for mask in masks):
                raise InputError(
                    f"{self.path}: by its masks ({masks[0]}), no token of its {split} split is learned; {REPAIR}"
                )

    def info(self, file: str, shard: Shard, found: Mapping[str, Found]) -> ShardInfo:
        """Describe what was found intact: a shard, and its mask if that was found, too."""
        if file in self.promised:
            return self.promised[file]
        facts, mask = (file, self.splits[file], shard.tokens, 0, 0, *found[file]), mask_name(file)
        return MaskedShardInfo(*facts, mask, found[mask][1], 0) if mask in found else ShardInfo(*facts)


def describe(path: Path) -> Description:
    """Read what a dataset says of itself. Raises InputError if that does not hold together."""
    if not path.is_dir():
        raise _no_dataset(path)
    has_manifest = (path / "manifest.json").exists()
    manifest = read_manifest(path) if has_manifest else {}
    promised = {file: info for info in map(shard_info, manifest.get("shards", [])) for file in info.files}
    splits = {file: info.split for file, info in promised.items()} if has_manifest else foreign_shards(path)
    masks = {mask_name(file): file for file in splits if mask_name(file) in splits}
    if has_manifest or (path / "tokenizer.json").exists():
        tokenizer = Tokenizer.load(path / "tokenizer.json")
    elif (path / "meta.pkl").exists():
        raise InputError(
            f"{path}: has nanoGPT's meta.pkl, a vocabulary of its own that is pickled and so is not read; "
            "prepare the text again: gpt prepare files --input TEXT --name NAME --tokenizer char"
        )
    else:
        log.warning(f"{path}: has no tokenizer.json; its ids are taken for GPT-2's")
        tokenizer = Tokenizer.gpt2()
    if has_manifest and manifest["tokenizer_fingerprint"] != tokenizer.fingerprint:
        raise InputError(f"{path}: manifest.json was written with another tokenizer than tokenizer.json; {REPAIR}")
    corpus = manifest.get("corpus_fingerprint") or None
    return Description(path, tokenizer, splits, masks, promised, manifest.get("recipe", {}), corpus)


def _no_dataset(path: Path) -> InputError:
    """Say what lies in the place of a dataset, and how one is made of it."""
    if not path.exists() and (near := Path("data") / path.name).is_dir():
        return InputError(f"{path}: there is no dataset here; did you mean {near}?")
    if path.is_file():
        words = shlex.join(["--input", str(path), "--name", path.resolve().stem])
        return InputError(f"{path}: is a file, and no dataset; make one of its text: gpt prepare files {words}")
    where = "" if path.is_absolute() else f" (below {Path.cwd()}; `data` names one elsewhere)"
    return InputError(
        f"{path}: there is no dataset here{where}; prepare one, such as by: "
        "gpt prepare files --input YOUR_TEXT --name NAME"
    )


# ---- shards that other programs wrote ----


def foreign_shards(path: Path) -> dict[str, str]:
    """Find the shards that other programs wrote (nanoGPT's, llm.c's, the NanoGPT speed-run's): {file: split}.

    The mask of one, NAME.mask.bin beside NAME.bin, follows it. Raises InputError if there are none.
    """
    shards = {}
    for file in sorted([*path.glob("*.bin"), *path.glob("*.npy")]):
        words = SPLIT_WORD.findall(file.name)
        if words and file.is_file() and not file.name.endswith(MASK):
            shards[file.name] = "train" if words[-1].startswith("train") else "validation"
            if (path / mask_name(file.name)).exists():
                shards[mask_name(file.name)] = shards[file.name]
    if not shards and (path / "config.json").exists():
        raise InputError(
            f"{path}: is a run or a model, and no dataset: weights are named by `init_from`, and the data by `data`; "
            f"text becomes a dataset for it by: gpt prepare files --input TEXT --name NAME --tokenizer {path}"
        )
    if not shards:
        raise InputError(
            f"{path}: holds neither a manifest.json nor shards with 'train' and 'val' in their names (.bin, .npy)"
        )
    return shards


def require_uint16(shard: Shard) -> None:
    """Refuse uint32 ids without a header: read as uint16 they are ids all the same, every second one about 0."""
    if shard.offset or shard.tokens < MIN_IDS:
        return
    ids = shard.read(0, min(shard.tokens, MAX_IDS) // 2 * 2)
    low, high = int(ids[0::2].max()), int(ids[1::2].max())
    if high == 0 < low or (high < 64 and low >= 1 << 15):  # ids of at most 65,535; or of 4 million
        raise InputError(
            f"{shard.path}: seems to hold uint32 ids, and has no header that says so: as uint16, every second id is "
            "about 0; write it as uint16, or with a shard's header (256 int32: 20240801, 7, number of tokens, zeros)"
        )
