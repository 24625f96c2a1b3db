"""What several tests use."""

import random


def random_text(rng: random.Random, length: int) -> str:
    """Unicode of many scripts, whitespace and code, to hold one tokenizer against another."""
    pools = [
        lambda: rng.choice("abcdefghijklmnopqrstuvwxyzABCDEF"),
        lambda: rng.choice("0123456789"),
        lambda: rng.choice([" ", "  ", "\n", "\t", "\r\n", "    ", "\n\n", "\u00a0", "\u3000"]),
        lambda: rng.choice(["def ", "return ", "self.", "()", "'s", "'ll", "!=", "# ", '"""', "<|endoftext|>"]),
        lambda: chr(
            rng.choice(
                [
                    rng.randint(0xA1, 0x24F),
                    rng.randint(0x370, 0x5FF),
                    rng.randint(0x4E00, 0x9FFF),
                    rng.randint(0x1F300, 0x1FAFF),
                ]
            )
        ),
        lambda: chr(rng.randint(0, 0xD7FF)),
    ]
    return "".join(rng.choice(pools)() for _ in range(length))
