"""What a run's datasets say of themselves, without paths, names of files and texts, which are their owner's."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from gpt.config import TrainConfig
from gpt.dataset.manifest import fingerprint, read_manifest, shard_info
from gpt.dataset.mixture import mixed_fingerprint
from gpt.errors import InputError
from gpt.interop.card import UNKNOWN

OWN_PROMPTS = ("python",)  # recipes whose prompt is ours, and not of the user's text
LANGUAGES = {"python": "code", "shakespeare": "en", "tinystories": "en", "openwebtext": "en", "fineweb": "en"}
SHOWN = ("version", "sample", "files")  # settings of a recipe that say which part of a public corpus it took


@dataclass(frozen=True)
class DataFacts:
    """What is known of a dataset; what is not known is in no field but `in_words`."""

    name: str
    in_words: str
    hub_id: str | None = None
    language: str | None = None
    prompt: str | None = None


def data_of(config: TrainConfig | None, state: dict[str, Any]) -> list[DataFacts]:
    """Describe the datasets of a run: by their manifests, where they still hold what the run was trained on."""
    if config is None:
        return []
    weights = config.datasets
    manifests = {path: _manifest(path) for path in weights}
    is_same = _fingerprint(weights, manifests) == state.get("dataset_fingerprint") is not None
    found = []
    for path, weight in weights.items():
        share = f"{float(weight / sum(weights.values())):.1%} of what was read; " if len(weights) > 1 else ""
        name = path.name or path.resolve().name
        manifest = manifests[path]
        if manifest is None or not is_same:
            gone = "its dataset is not where it was" if manifest is None else "its dataset is another one by now"
            corpus = state.get("corpus_fingerprint")
            kept = f"; corpus fingerprint {corpus[:12]}" if corpus and len(weights) == 1 else ""
            found.append(DataFacts(name, f"{share}tokens and documents {UNKNOWN}: {gone}{kept}"))
        else:
            found.append(_described(name, share, manifest))
    return found


def _manifest(path: Path) -> dict[str, Any] | None:
    try:
        return read_manifest(path)
    except InputError:
        return None


def _fingerprint(weights: dict[Path, Fraction], manifests: dict[Path, dict[str, Any] | None]) -> str | None:
    """Name the content of all datasets as they are now; None where one of them is gone."""
    found = []
    for path, weight in weights.items():
        manifest = manifests[path]
        if manifest is None:
            return None
        own = fingerprint(manifest["tokenizer_fingerprint"], [shard_info(shard) for shard in manifest["shards"]])
        found.append((own, weight))
    return found[0][0] if len(found) == 1 else mixed_fingerprint(found)


def _described(name: str, share: str, manifest: dict[str, Any]) -> DataFacts:
    shards, recipe = [shard_info(shard) for shard in manifest["shards"]], manifest.get("recipe", {})
    words = []
    for split in ("train", "validation"):
        own = [shard for shard in shards if shard.split == split]
        tokens, documents, size = (sum(getattr(s, of) for s in own) for of in ("tokens", "documents", "text_bytes"))
        words.append(f"{split}: {tokens:,} tokens, {documents:,} documents, {size:,} bytes of text")
    hub = recipe.get("repository")
    of = recipe.get("name", UNKNOWN)
    source = f"{hub} at commit {recipe.get('revision', UNKNOWN)}" if hub else ""
    settings = [f"{key} {recipe[key]}" for key in SHOWN if hub and key in recipe]
    words.append(f"recipe {', '.join(filter(None, [of, source, *settings]))}")
    if corpus := manifest.get("corpus_fingerprint"):
        words.append(f"corpus fingerprint {corpus[:12]}")
    prompt = recipe.get("sample_prompt") if of in OWN_PROMPTS else None
    return DataFacts(name, share + "; ".join(words), hub, LANGUAGES.get(of), prompt)
