"""The README's example of a model of one's own, and the page of methods."""

import re
from pathlib import Path

from xinv import explain

ROOT = Path(__file__).resolve().parent.parent


def test_readmes_example(capsys):
    """The README's example explains a model of one's own."""
    text = (ROOT / "README.md").read_text().split("## Explain your own model")[1]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == "(100, 32, 32, 1)"


def test_page_lists_methods():
    """The page of methods lists each with its cost."""
    page, models = explain.__doc__.split("On which models.")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    named = [name.strip() for row in rows[1:] for name in row[0].split(",")]
    assert sorted(named) == sorted(factory.__name__ for factory in explain.FACTORIES)
    assert all(cost.strip() for _, _, cost in rows)
    assert len({line.count("|") for line in models.splitlines() if line.startswith("|")}) == 1
