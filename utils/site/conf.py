"""Sphinx's settings for the report: pages that work from disk and load nothing from a network."""

import html
import json

from docutils import nodes
from latex2mathml.converter import convert

project = html_title = "ResNet-18, from float32 to int8"
extensions = ["myst_nb"]
myst_enable_extensions = ["dollarmath"]
suppress_warnings = ["myst.xref_missing"]  # a report of some notebooks lacks the others
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # formulas in outputs, too
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"

html_theme = "sphinx_book_theme"
html_theme_options = {
    "footer_content_items": [],
    "home_page_in_toc": True,
    "navbar_persistent": [],
    "use_download_button": False,
}
html_sidebars = {"**": ["search-button-field.html", "sbt-sidebar-nav.html"]}
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_static_path = html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_search_summary = False  # a browser does not let a page on disk read another page
html_copy_source = html_show_copyright = html_use_index = False


def _drawn(tag, display):
    def visit(translator, node):
        focus = ' tabindex="0"' if display == "block" else ""  # a wide one is scrolled by keys, too
        formula = convert(node.astext(), display=display)
        translator.body.append(f'<{tag} class="math"{focus}>{formula}</{tag}>')
        raise nodes.SkipNode

    return visit, None


def _prepare(app, name, source):
    """Number a notebook's title; fold solutions, and code in 09; give figures their texts."""
    if name == "index":
        return
    notebook = json.loads(source[0])
    title = notebook["cells"][0]
    title["source"] = "".join(title["source"]).replace("# ", f"# {name[:2]}. ", 1)
    for cell in notebook["cells"]:
        tags = cell["metadata"].setdefault("tags", [])
        if "solution" in tags:
            tags.append("hide-cell")
            cell["metadata"]["mystnb"] = {"code_prompt_show": "Show a solution"}
        elif cell["cell_type"] == "code" and name.endswith("_report"):
            tags.append("hide-input")
        for output in cell.get("outputs", []):
            if png := "".join(output.get("data", {}).get("image/png", "")).strip():
                alt = html.escape(output["metadata"].get("image/png", {}).get("alt", ""))
                image = f'<img src="data:image/png;base64,{png}" alt="{alt}">'
                output["data"] = {"text/html": image}  # myst-nb leaves alternative texts out
    source[0] = json.dumps(notebook)


def setup(app):
    """Prepare the notebooks, and write formulas as MathML, which browsers draw themselves."""
    app.connect("source-read", _prepare)
    app.add_html_math_renderer("mathml", _drawn("span", "inline"), _drawn("div", "block"))
