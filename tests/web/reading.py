"""A page as a browser would build it: its elements, texts, links and forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin, urlsplit

EMPTY = {"meta", "link", "input", "br", "img", "hr", "use", "path", "rect", "circle"}


@dataclass(slots=True)
class Element:
    """An element: its name, attributes, what it stands in, and the text right inside."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None
    text: str = ""

    def within(self, tag: str) -> Element | None:
        """Return the nearest element of a name around this one."""
        found = self.parent
        while found is not None and found.tag != tag:
            found = found.parent
        return found


@dataclass(slots=True)
class ReadPage:
    """A page that was read."""

    url: str
    elements: list[Element] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.elements if element.tag == tag]

    @property
    def text(self) -> str:
        """What the page says, in order, white space as browsers take it."""
        return " ".join("".join(self.texts).split())

    @property
    def links(self) -> Iterator[str]:
        """Addresses on this server that the page leads to, without what stands behind #."""
        for link in self.all("a"):
            target = urlsplit(urljoin(self.url, link.attributes["href"]))
            if target.netloc == urlsplit(self.url).netloc:
                yield target._replace(fragment="").geturl()


class _Reader(HTMLParser):
    def __init__(self, page: ReadPage) -> None:
        super().__init__(convert_charrefs=True)
        self.page = page
        self.open: list[Element] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        parent = self.open[-1] if self.open else None
        element = Element(tag, {name: value or "" for name, value in attrs}, parent)
        self.page.elements.append(element)
        if tag not in EMPTY:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        while tag not in EMPTY and self.open and self.open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open:
            self.open[-1].text += data
            if self.open[-1].tag not in ("script", "style"):
                self.page.texts.append(data)


def read_page(url: str, text: str) -> ReadPage:
    """Return a page as a browser would build it."""
    page = ReadPage(url)
    _Reader(page).feed(text)
    return page
