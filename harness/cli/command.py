"""How every command ends: an exit code, and a sentence in place of a traceback.

0: done. 1: cells failed, or what was looked for was found (`check`, `compare`). 2: something the user gave, or the
machine, does not do. 3: an error of this program's own; its traceback is in the file that the sentence names.
130: interrupted. 141: whoever read the output has closed it.
"""

from __future__ import annotations

import atexit
import codecs
import gc
import io
import logging
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence

from methods.errors import UsageError
from methods.text import printable, shortened

DONE, FAILED, REFUSED, OWN_ERROR, INTERRUPTED, UNREAD = 0, 1, 2, 3, 130, 141
_LONGEST = 2000
atexit.register(gc.freeze)  # else the interpreter ends by collecting all that torch and timm hold: a second of work
_IN_ASCII = {"±": "+-", "×": "x", "†": "+", "‡": "++", "–": "-", "…": "...", "•": "*", "━": "-", "╸": "-", "╺": "-"}


def run_command(action: Callable[[], int]) -> int:
    """Run a command's work, libraries kept quiet; returns its exit code."""
    for library in ("timm", "huggingface_hub"):
        logging.getLogger(library).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged EXIF, giants: decoding names what it refuses
    return ended(action)


def ended(action: Callable[[], int]) -> int:
    """Run a command's work; returns its exit code, or the one its error stands for, after a sentence on stderr."""
    _let_streams_hold_everything()
    try:
        return _flushed(action())
    except UsageError as error:
        return _told(str(error), REFUSED, getattr(error, "__notes__", []))
    except KeyboardInterrupt:
        return _told("Interrupted. What is finished is recorded; the same command goes on from there.", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return UNREAD
    except OSError as error:
        return _told(_of_the_machine(error), REFUSED)
    except MemoryError:
        return _told("There is not enough memory on this machine.", REFUSED)
    except Exception as error:  # whatever is left is a mistake of this program
        return _told(_of_our_own(error), OWN_ERROR)


def _flushed(code: int) -> int:
    """Write out what is left while errors are still caught."""
    if sys.stdout is not None:  # it is None where the output was closed before the start (>&-)
        sys.stdout.flush()
    return code


def _told(sentence: str, code: int, notes: Sequence[str] = ()) -> int:
    """Print a sentence, and what an error has been given by way of notes on lines of their own."""
    for line in (sentence, *(f"  {note}" for note in notes)):
        print(printable(shortened(line, _LONGEST)), file=sys.stderr)
    return code


def _of_the_machine(error: OSError) -> str:
    """Return the system's reason and the file it is about."""
    place = error.filename if error.filename is not None else error.filename2
    name = os.fsdecode(place) if isinstance(place, str | bytes | os.PathLike) else ""
    reason = error.strerror or str(error) or type(error).__name__
    return f"{shortened(name, 200)}: {reason}." if name else f"The system says: {reason}."


def _of_our_own(error: Exception) -> str:
    """Write the traceback to a file and return a sentence that names it; where no file can be made, print it."""
    trace = traceback.format_exc()
    what = shortened(f"{type(error).__name__}: {error}", 200)
    try:
        with tempfile.NamedTemporaryFile("w", prefix="spdfq-bench-", suffix=".log", delete=False) as stream:
            stream.write(trace)
    except (OSError, UnicodeError):
        print(trace, file=sys.stderr)
        return f"This is an error of the program's own ({what}); its traceback stands above."
    return f"This is an error of the program's own ({what}); its traceback is in {stream.name}."


def _let_streams_hold_everything() -> None:
    """Let output that is not UTF-8 take what it can, and the rest in ASCII; the default would raise in mid-table."""
    codecs.register_error("ascii_signs", _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ascii_signs")


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    signs = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(sign, sign.encode("unicode_escape").decode()) for sign in signs), error.end
