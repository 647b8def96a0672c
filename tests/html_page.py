"""A page as a browser would see it."""

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "path", "rect", "use", "wbr"}


class Page(HTMLParser):
    """What a browser would see: tags with attributes, visible text, and whether the tags nest."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split()).replace("\N{NO-BREAK SPACE}", " ")

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag, **attrs):
        return [
            a
            for t, a in self.tags
            if t == tag and all((a.get(k) or "").startswith(v) for k, v in attrs.items())
        ]
