"""Reads a page as a strict reader does: each element ends where it has to."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "input", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict
    children: list = field(default_factory=list)

    @property
    def text(self):
        return "".join(each if isinstance(each, str) else each.text for each in self.children)

    def all(self, tag=None, **attributes):
        """All elements below it with a tag and attributes, in the order of the page."""
        found = []
        for each in self.children:
            if isinstance(each, Element):
                if tag in (None, each.tag) and attributes.items() <= each.attributes.items():
                    found.append(each)
                found += each.all(tag, **attributes)
        return found


class Reader(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes), (tag, attributes)
        element = Element(tag, dict(attributes))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attributes):
        assert "svg" in [each.tag for each in self.open] + [tag], tag  # nothing else ends itself in HTML
        self.open[-1].children.append(Element(tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag, (tag, self.getpos())

    def handle_data(self, data):
        self.open[-1].children.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


def read_page(text):
    """The whole page as an element."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


def tables(page):
    """The cells of each table by its caption, as a reader sees them; the first row is the heading."""
    found = {}
    for table in page.all("table"):
        rows = [[each for each in row.children if isinstance(each, Element)] for row in table.all("tr")]
        found[table.all("caption")[0].text] = [[cell.text.strip() for cell in row] for row in rows]
    return found
