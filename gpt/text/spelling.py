"""GPT-2's printable spelling of bytes, which Hugging Face's files use."""


def byte_alphabet() -> list[str]:
    """List the character that spells each byte: itself where printable, else the next one from U+0100 on.

    From GPT-2's encoder.py, `bytes_to_unicode`.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = (byte for byte in range(256) if byte not in printable)
    spelled = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(moved)}
    return [spelled[byte] for byte in range(256)]


_ALPHABET = byte_alphabet()


_BYTE_OF = {character: byte for byte, character in enumerate(_ALPHABET)}


def to_bytes(spelled: str) -> bytes:
    return bytes(_BYTE_OF[character] for character in spelled)


def from_bytes(token: bytes) -> str:
    return "".join(_ALPHABET[byte] for byte in token)
