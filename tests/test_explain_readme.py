"""The README's example of an explanation, and the page of methods."""

from documented import block

from xinv import explain


def test_the_readme_explains_a_model_of_ones_own(capsys):
    exec(block("README.md", "Explain your own model"), {})
    assert capsys.readouterr().out.strip() == "(100, 32, 32, 1)"


def test_the_page_of_methods_lists_each_with_its_cost():
    page, models = explain.__doc__.split("On which models.")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    named = [name.strip() for row in rows[1:] for name in row[0].split(",")]
    assert sorted(named) == sorted(factory.__name__ for factory in explain.FACTORIES)
    assert all(cost.strip() for _, _, cost in rows)
    assert len({line.count("|") for line in models.splitlines() if line.startswith("|")}) == 1
