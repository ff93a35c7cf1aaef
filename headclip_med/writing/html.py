"""Reports as HTML pages that stand alone: no script, no request, readable on screen and on paper."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from headclip_med.base.types import RESEARCH_ONLY


def render_html(template: str, heading: str, **values: Any) -> str:
    """Fill a template that extends ``writing/page.html.j2``.

    Every value is text on the page and never becomes markup.

    Args:
        template: path below the package, such as ``writing/report.html.j2``.
        heading: the page's heading, and the beginning of its title.
        values: whatever else the template names.

    Returns:
        The page.

    Raises:
        jinja2.UndefinedError: the template names a value that was not given.
    """
    environment = Environment(
        loader=PackageLoader("headclip_med", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(heading=heading, research_only=RESEARCH_ONLY, **values)


def data_uri(content: bytes, media_type: str = "image/png") -> str:
    """Put a file's content into an address, so that the page needs no second file.

    Args:
        content: bytes of the picture.
        media_type: what kind of picture it is.

    Returns:
        An address that begins with ``data:``.
    """
    return f"data:{media_type};base64," + base64.b64encode(content).decode("ascii")


def png_uri(picture: Image.Image) -> str:
    """Put a picture into an address, losslessly (see :func:`data_uri`).

    Args:
        picture: any picture that PNG can hold.

    Returns:
        An address that begins with ``data:image/png``.
    """
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return data_uri(buffer.getvalue())


def flat(tree: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Give the leaves of nested facts as ``(dotted name, text)``, with a dash for nothing.

    Args:
        tree: mappings, lists and values.
        path: dotted name of ``tree`` itself.

    Yields:
        Name and text of each leaf.
    """
    if isinstance(tree, dict) and tree:
        for key, branch in tree.items():
            yield from flat(branch, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, list | tuple):
        yield path, ", ".join(map(str, tree)) or "–"
    else:
        yield path, "–" if tree is None or tree == {} else str(tree)
