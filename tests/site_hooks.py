"""What mkdocs does besides: the notebook becomes a page, formulas become MathML.

In: ``docs/tutorial.ipynb``, as it is committed; pages as HTML. Out: ``tutorial.md`` for the site alone; ``<math>`` in
the place of LaTeX, which browsers set by themselves. Neither needs a script, a style or a font from elsewhere.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import nbformat
from latex2mathml.converter import convert
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\(?:\(|\[)(?P<latex>.*?)\\(?:\)|\])</(?P=tag)>', re.DOTALL
)
# A cell's output keeps a frame of its own; HTML is taken as it stands, for dragoman has escaped every word of it.
_OUTPUTS = r"""{% extends 'markdown/index.md.j2' %}
{% block data_html %}
<div class="cell-output">
{{ output.data['text/html'] | replace('\n\n', '\n') }}
</div>
{% endblock %}
{% block data_text %}
<div class="cell-output"><pre><code>{{ output.data['text/plain'] | e }}</code></pre></div>
{% endblock %}
{% block stream %}
<div class="cell-output"><pre><code>{{ output.text | e }}</code></pre></div>
{% endblock %}
"""


def page_of(notebook: Path) -> str:
    """A notebook as Markdown, with the outputs that are stored in it."""
    text, _ = MarkdownExporter(raw_template=_OUTPUTS).from_notebook_node(nbformat.read(notebook, 4))
    return text


def with_mathml(page: str) -> str:
    """A page with MathML in the place of its formulas."""

    def set_(found: re.Match[str]) -> str:
        display = "block" if found["tag"] == "div" else "inline"
        return convert(html.unescape(found["latex"]).strip(), display=display)

    return _FORMULA.sub(set_, page)


def on_files(files: Any, config: Any) -> Any:
    """Add the notebook's page."""
    files.append(File.generated(config, "tutorial.md", content=page_of(NOTEBOOK)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the notebook, as the repository has it, lead to its page."""
    return markdown.replace("](tutorial.ipynb)", "](tutorial.md)")


def on_page_content(html: str, **_: Any) -> str:
    """Set a page's formulas."""
    return with_mathml(html)
