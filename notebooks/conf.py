"""The site, from the root of a checkout: `sphinx-build -W notebooks build/site`."""

import os
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.logging import getLogger

import optax_adamp
from optax_adamp import layouts

logger = getLogger(__name__)

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent

project = "optax-adamp"
version = release = optax_adamp.__version__
copyright = "the optax-adamp authors"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# These are included by pages of the site.
exclude_patterns = ["README.md"]

# Notebooks show what they printed and drew when they were run; nothing runs here.
nb_execution_mode = "off"
# What notebooks keep for tests, beside what they show.
suppress_warnings = ["mystnb.unknown_mime_type"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

# What is between single backticks in docstrings is code.
default_role = "code"
# Docstrings say in words what arguments are; the names of their types fill lines.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_attr_annotations = False

nitpicky = True
# No inventory of other libraries is downloaded: their names are code without a link.
nitpick_ignore_regex = [("py:.*", r"(optax|jax|flax)\..*")]

html_theme = "furo"
html_math_renderer = "mathml"  # See below.
pygments_dark_style = "github-dark"
toc_object_entries_show_parents = "hide"
html_title = f"optax-adamp {release}"
html_static_path = ["pages/site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

# The files that pages of the site include, and those pages.
PAGES = {
    CHECKOUT / "README.md": HERE / "index.md",
    CHECKOUT / "CHANGELOG.md": HERE / "pages" / "changelog.md",
    CHECKOUT / ".github" / "CONTRIBUTING.md": HERE / "pages" / "contributing.md",
    CHECKOUT / "tests" / "README.md": HERE / "pages" / "verification.md",
    CHECKOUT / "tests" / "benchmarks" / "README.md": HERE / "pages" / "speed.md",
    HERE / "README.md": HERE / "pages" / "experiments.md",
}


def redirect_links(app: Sphinx, file: Path, content: list[str]) -> None:
    """Makes links between files of the repository those between pages of the site."""
    page = Path(app.env.doc2path(app.env.docname))

    def redirect(match: re.Match[str]) -> str:
        text, path, anchor = match.groups("")
        target = (file.parent / path).resolve()
        target = PAGES.get(target) or PAGES.get(target / "README.md") or target
        if target.is_dir():
            return text  # There is nothing to show.
        if not target.is_file():
            return match[0]  # Sphinx tells what is missing.
        return f"[{text}]({os.path.relpath(target, page.parent)}{anchor})"

    # Images are found by the directive that includes the file.
    link = r"(?<!!)\[([^][]+)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)"
    content[0] = re.sub(link, redirect, content[0])


def redirect_links_of_page(app: Sphinx, page: str, content: list[str]) -> None:
    """The same for what is a page itself; notebooks have no such links."""
    if (file := Path(app.env.doc2path(page))).suffix == ".md":
        redirect_links(app, file, content)


def redirect_links_of_included(
    app: Sphinx, file: Path, page: str, content: list[str]
) -> None:
    """The same for a file that a page includes."""
    redirect_links(app, (HERE / file).resolve(), content)


def visit_math(translator: Any, node: nodes.math) -> None:
    """Browsers draw MathML themselves, so that no script is needed."""
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def visit_display_math(translator: Any, node: nodes.math_block) -> None:
    """The same on a line of its own."""
    translator.body.append(convert(node.astext(), display="block"))
    raise nodes.SkipNode


def document_rules(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Takes a rule's docstring from below it; the object has that of its class."""
    if isinstance(obj, layouts.Rule):
        analyzer = ModuleAnalyzer.for_module(type(obj).__module__)
        lines[:] = analyzer.find_attr_docs()["", name.rpartition(".")[2]]


def check_api(app: Sphinx, env: BuildEnvironment) -> None:
    """No public name may be missing from the reference."""
    documented = set(env.domains.python_domain.objects)
    public = {f"optax_adamp.{name}" for name in optax_adamp.__all__}
    public |= {f"optax_adamp.layouts.{name}" for name in layouts.__all__}
    if missing := sorted(public - documented):
        logger.warning("The API reference lacks %s.", ", ".join(missing))


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_display_math, None))
    app.connect("source-read", redirect_links_of_page)
    app.connect("include-read", redirect_links_of_included)
    app.connect("autodoc-process-docstring", document_rules)
    app.connect("env-check-consistency", check_api)
