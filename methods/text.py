"""Text that came from elsewhere: made fit for a sentence, a terminal or a file, and lists in it split."""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def printable(text: str) -> str:
    """Return a text with every sign that cannot be seen, or that turns what follows about, written as an escape.

    These are control characters (line ends and ESC among them), format characters (bidirectional overrides, signs of
    no width), lone surrogates, and spaces other than the plain one; ``\\x1b`` stands for ESC.
    """
    if text.isprintable():
        return text
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii") for sign in text)


def shortened(text: str, most: int = 80) -> str:
    """Return a text whose middle is left out where it is too long for a sentence."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 4 :]} ({len(text)} characters)"


def file_stem(name: str) -> str:
    """Return a file's name for a name that may hold anything: itself where it is plain, else a checksum."""
    return name if _PLAIN.fullmatch(name) else hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]


def words(text: str) -> list[str]:
    """Return the words of a comma-separated list, a setting or an option, in their order, without repeats and
    empty ones."""
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
