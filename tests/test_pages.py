"""README, the pages of papers, and what they name: code, commands, links."""

import importlib
import re

import pytest
from documented import ROOT, block

from xinv import explain

PAGES = [ROOT / "README.md", ROOT / "BUILD_NOTES.md", *sorted((ROOT / "configs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
PLACEHOLDERS = "SIZE", "…"
every = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def commands(text):
    """The commands of a text that name a config, each on one line."""
    text = re.sub(r"\\+\n\s*", "", text)
    found = re.findall(r"--config=configs/[^`\n]*", text)
    return [line for line in found if not any(word in line for word in PLACEHOLDERS)]


def test_readme(capsys):
    exec(block("README.md", "Explain your own model"), {})
    assert capsys.readouterr().out.strip() == "(100, 32, 32, 1)"


@every
def test_links(page):
    """Each links to a file."""
    for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert "://" in link or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", [*PAGES, *CONFIGS], ids=lambda page: page.name)
def test_commands(page):
    """Each names a config, a size and keys that are there."""
    for line in commands(page.read_text()):
        name, size = re.match(r"--config=configs/(\w+)\.py:?([\w-]*)", line).groups()
        config = importlib.import_module(f"configs.{name}").get_config(size)
        for path in re.findall(r"--config\.([\w.]+)=", line):
            node = config
            for key in path.split("."):
                assert key in node, (line, path)
                node = node[key]


def test_notes_are_short():
    """Figures stand on the pages; the notes keep decisions."""
    assert len((ROOT / "BUILD_NOTES.md").read_bytes()) <= 10_000


def test_methods():
    """The page of explainers lists each with its cost."""
    page, models = explain.__doc__.split("On which models.")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    named = [name.strip() for row in rows[1:] for name in row[0].split(",")]
    assert sorted(named) == sorted(factory.__name__ for factory in explain.FACTORIES)
    assert all(cost.strip() for _, _, cost in rows)
    assert len({line.count("|") for line in models.splitlines() if line.startswith("|")}) == 1
