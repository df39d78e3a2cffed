"""The site: `python -m sphinx -W -n docs build/site`, with the extra `docs` installed."""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
# Notebooks train small models, on the CPU: compiling takes longer than running.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp(prefix="vpjax-site-"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

from docs import generate  # noqa: E402

project = "vpjax"
author = "the authors of vpjax"
html_title = "vpjax"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "myst-nb"}
html_theme = "furo"
pygments_dark_style = "github-dark"
smartquotes = False  # "" is a value in many tables
html_show_copyright = False
html_static_path = ["static"]
html_css_files = ["site.css"]

myst_heading_anchors = 4  # the anchors that a repository's page gives headings
myst_enable_extensions = []

nb_execution_mode = "force"
nb_execution_in_temp = True  # runs are written there, not beside the sources
nb_execution_raise_on_error = True
nb_execution_timeout = 600  # seconds a cell
nb_merge_streams = True

default_role = "literal"  # `name` in a docstring is code, as in Markdown
autodoc_typehints_format = "short"
napoleon_use_ivar = True
# Annotations name classes that have no entry here, of this library and others.
nitpick_ignore_regex = [(r"py:.*", r".*")]


def setup(app):
    """Fill the pages that say something from the code."""

    def fill(app, name, source):
        source[0] = generate.fill(generate.keep_inside(source[0], Path(app.env.doc2path(name))))

    app.connect("source-read", fill)
