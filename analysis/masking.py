"""Text from elsewhere, made fit to be shown: without secrets, and without what a reader obeys."""

from __future__ import annotations

import re

# What may stand behind the ? of an address and is shown; whatever is not known is a secret.
_PLAIN = frozenset(
    "region scheme endpoint_override allow_bucket_creation allow_bucket_deletion mode cache uri "
    "timeout charset driver sslmode connect_timeout check_same_thread application_name".split()
)
HIDDEN = "***"
# A password may hold what should have been escaped; a path after the host may hold an @, too.
_USER = re.compile(r"(?<=://)(?:[^/?#\s]*@|[^/?#@:\s]*:[^@\s]*@)")
_QUERY = re.compile(r"([?&;])([\w.%+-]+)=([^&;#\s'\")\]]*)")
_WORD = re.compile(r"\S+")
_LONGEST = 4000  # characters of one error that are shown
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def masked(text: str) -> str:
    """Text with ``***`` for users, passwords and keys in the addresses that stand in it."""
    if "://" not in text:
        return text
    return _QUERY.sub(_value, _WORD.sub(_without_user, text))


def _without_user(found: re.Match[str]) -> str:
    """A user ends with an @: behind a word's last one none is sought, which would take long."""
    head, mark, rest = found[0].rpartition("@")
    return _USER.sub(f"{HIDDEN}@", head + mark) + rest


def _value(found: re.Match[str]) -> str:
    mark, name, value = found.groups()
    return f"{mark}{name}={value if name.lower() in _PLAIN else HIDDEN}"


def printable(text: str) -> str:
    """Lines as a terminal may get them: control characters are written out, as in a repr.

    Otherwise a name could move the cursor, change the window's title, or hide what stands beside.
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def sayable(text: str) -> str:
    """An error as a terminal may get it: masked, printable, and cut where it is very long."""
    hidden = masked(text)  # as a whole: a part of an address may not look like one
    return printable(hidden if len(hidden) <= _LONGEST else f"{hidden[:_LONGEST]}...")


def cell(value: object) -> object:
    """A value for CSV: text that a spreadsheet would compute begins with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
