"""Names of the user, which may hold anything, as a terminal may show them."""


def printable(text: str) -> str:
    r"""A text in which line breaks, terminal escapes and the like are written out.

    Example:
      >>> print(printable("größe\n\x1b[31m"))
      größe\n\x1b[31m
    """
    return "".join(
        letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text
    )
