"""The page itself: one HTML file with its style, its scripts, the library that draws, and the data.

The data is JSON inside the page. Nothing of a user's is ever markup or code: the scripts set text
as text, and the JSON cannot end the element that holds it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["COMPARISON", "REPORT", "as_json", "document"]


@dataclass(frozen=True)
class Layout:
    """What a page has in the frame that all share: its ``body`` as HTML, and its scripts.

    What is said (``words``) stands there before the library is read, which takes the browser
    longest; then comes the ``drawing``.
    """

    body: str
    words: Sequence[str]
    drawing: Sequence[str]


REPORT = Layout(
    "page.html",
    ("text", "table", "words"),
    ("tooltip", "draw", "cloud", "front", "labels", "controls", "charts", "page"),
)
COMPARISON = Layout(
    "comparison.html", ("text", "parts"), ("tooltip", "draw", "cloud", "charts", "comparison")
)
# As JSON may write them; as they are, they could end a script or begin a comment.
ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def as_json(contents: Mapping[str, Any]) -> bytes:
    """The data alone: floats to the last digit, no NaN."""
    return json.dumps(contents, allow_nan=False, indent=1).encode()


def document(contents: Mapping[str, Any], layout: Layout = REPORT) -> bytes:
    """The page of these contents."""
    text = json.dumps(contents, allow_nan=False, separators=(",", ":"))
    for mark, escape in ESCAPES.items():
        text = text.replace(mark, escape)
    parts = {
        "title": html.escape(str(contents["name"])),
        "style": _own("page.css"),
        "body": _own(layout.body),
        "library": _library(),
        "data": text,
        "words": _scripts(layout.words),
        "drawing": _scripts(layout.drawing),
    }
    # Split, not replaced one after the other: data may hold what looks like a place for the next.
    page, *rest = _own("frame.html").split("{{")
    for piece in rest:
        name, after = piece.split("}}", 1)
        page += parts[name] + after
    return page.encode("utf-8", "replace")  # half a surrogate pair in a name


def _scripts(names: Sequence[str]) -> str:
    return "\n".join(_own(f"{name}.js") for name in names)


@cache
def _own(name: str) -> str:
    return resources.files("analysis.page").joinpath(name).read_text(encoding="utf-8")


@cache
def _library() -> str:
    path = resources.files("plotly").joinpath("package_data/plotly.min.js")
    return path.read_text(encoding="utf-8").replace("</script", "<\\/script")
