"""The words that a reader may not know, and the links to them from every page.

Each term is linked where a page first mentions it in running text: never in code, headings, tables, figures or links.
What is linked follows from the page's text alone, so the same page always has the same links. Cheap to import.
"""

from __future__ import annotations

import html
import re
from functools import cache
from typing import NamedTuple

from fer_core.schema import PACKAGE

FILE = "glossary.html"


class Term(NamedTuple):
    """A word with its meaning; `found_as` is a regular expression of the ways in which pages write it."""

    name: str
    found_as: str
    meaning: str

    @property
    def slug(self) -> str:
        return re.sub(r"\W+", "-", self.name.lower()).strip("-")


def _terms() -> tuple[Term, ...]:
    """Of template/glossary.txt: name :: how pages write it, then what it means."""
    text = (PACKAGE / "template" / "glossary.txt").read_text(encoding="utf-8")
    entries = (re.split(r" :: |\n", entry, maxsplit=2) for entry in text.strip().split("\n\n"))
    return tuple(Term(name, found_as, " ".join(meaning.split())) for name, found_as, meaning in entries)


TERMS = _terms()
TAG = re.compile(r"""(<!--.*?-->|<[a-zA-Z/!](?:[^<>"']|"[^"]*"|'[^']*')*>)""", re.S)
CLOSED = {"a", "abbr", "button", "code", "dt", "figure", "nav", "pre", "script", "style", "summary", "svg", "table"}
CLOSED |= {"h1", "h2", "h3", "h4", "h5", "h6"}


@cache
def _mentions() -> re.Pattern[str]:
    ways = "|".join(f"(?P<t{number}>{term.found_as})" for number, term in enumerate(TERMS))
    return re.compile(rf"(?<![\w./-])(?:{ways})(?![\w/]|[.-]\w)", re.I)


def link(content: str, href: str = FILE, but: str = "") -> str:
    """HTML with the first mention of each term linked to its place in the glossary.

    Parameters
    ----------
    content : whole elements; running text only is touched
    href : where the glossary lies, seen from the page
    but : a term's name that is not linked: its own entry in the glossary
    """
    told = {n for n, term in enumerate(TERMS) if term.name == but}

    def linked(match: re.Match[str]) -> str:
        number = int(str(match.lastgroup)[1:])
        if number in told:
            return match[0]
        told.add(number)
        return f'<a class="term" href="{html.escape(href)}#{TERMS[number].slug}">{match[0]}</a>'

    parts, inside = TAG.split(content), 0  # text, tag, text …
    for place, part in enumerate(parts):
        if place % 2 == 0:
            parts[place] = part if inside else _mentions().sub(linked, part)
        elif (name := re.match(r"</?([a-zA-Z0-9]+)", part)) and name[1].lower() in CLOSED:
            inside = max(0, inside + (-1 if part.startswith("</") else 1))
    return "".join(parts)


def link_page(page: str, href: str) -> str:
    """A whole page, its terms linked within <main>, up to the provenance: what tells of the machine links nothing."""
    head, main, body = page.partition("<main")
    body, end, foot = re.split(r"(<!-- provenance -->|</main>)", body, maxsplit=1) if main else ("", "", "")
    return head + link(main + body, href) + end + foot
