"""The texts of the page, in one table: `texts.json`. The script has it, and what the page shows without JavaScript.

`{name}` is a value; of two forms, `one` and `other`, a number chooses.
"""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from typing import Any

TEXTS: dict[str, Any] = json.loads(resources.files("wan_async.gallery").joinpath("texts.json").read_text("utf-8"))


def text(name: str, number: int = 0, **values: str) -> str:
    """A text of the table as HTML.

    Args:
        name: its name in the table.
        number: chooses between its forms, if it has two.
        values: what it mentions, as HTML.
    """
    form = TEXTS[name] if isinstance(TEXTS[name], str) else TEXTS[name]["one" if number == 1 else "other"]
    return escape(form, quote=False).format(**values)
