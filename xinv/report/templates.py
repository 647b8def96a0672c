"""The templates of the pages."""

from pathlib import Path

import jinja2


def templates() -> jinja2.Environment:
    """Returns the environment of the pages' templates; an undefined name is an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
