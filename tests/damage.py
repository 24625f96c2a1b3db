"""Ways to damage a file: functions of its path and a generator of random numbers."""


def rewritten(change):
    """Make a damage of a change of a file's bytes."""

    def damage(file, rng):
        content = bytearray(file.read_bytes())
        change(content, rng)
        file.write_bytes(content)

    damage.__name__ = change.__name__
    return damage


@rewritten
def cut_short(content, rng):
    del content[rng.randrange(len(content)) :]
