"""What a session writes into files."""

from pathlib import Path

from gpt.errors import InputError


def save(argument: str, text: str) -> Path:
    """Write a text into a new file, as /save says, and return its path. Raises InputError if that cannot be."""
    try:
        path = Path(argument).expanduser()
        with open(path, "x", encoding="utf-8", newline="") as file:
            file.write(text)
    except FileExistsError:
        raise InputError(f"/save {argument}: is there already, and stays as it is; choose another name") from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: nobody knows that home
        raise InputError(f"/save {argument}: cannot be written ({error})") from None
    return path
