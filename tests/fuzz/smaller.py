"""Makes an input smaller on which a target fails, so that a person sees what is wrong with it."""

from collections.abc import Callable

Target = Callable[[bytes], None]


def failure(target: Target, data: bytes) -> type[Exception] | None:
    """Return the type of what `target` raises, None if it takes the input."""
    try:
        target(data)
    except Exception as error:  # noqa: BLE001 whatever it is, it is what was found
        return type(error)
    return None


def smaller(target: Target, data: bytes) -> bytes:
    """Return `data` without all that can be left out while `target` fails in the same way."""
    kind = failure(target, data)
    size = len(data) // 2
    while kind is not None and size:
        at = 0
        while at < len(data):
            less = data[:at] + data[at + size :]
            if failure(target, less) is kind:
                data = less
            else:
                at += size
        size //= 2
    return data
