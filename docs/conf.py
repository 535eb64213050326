"""Configure the documentation site. CONTRIBUTING.md lists the command that builds it.

Neither the build nor the pages need the network; formulas are MathML.
"""

import os
import sys
from pathlib import Path

from sphinx_gallery.sorting import ExplicitOrder

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "extensions"))
# The networks in the figures are small, so that several threads would only be slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import kpflow_sklearn  # noqa: E402

project = "kpflow_sklearn"
author = "The kpflow_sklearn developers"
project_copyright = "2026, the kpflow_sklearn developers"
version = release = kpflow_sklearn.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "myst_parser",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "matplotlib.sphinxext.plot_directive",
    "docstrings",
    "mathml",
]
exclude_patterns = ["_build"]
nitpicky = True
# A name between backticks in a docstring is a link only if it has a page in the reference.
nitpick_ignore_regex = [("py:obj", ".*")]
smartquotes = False  # Users copy types and code from the pages.
default_role = "autolink"
suppress_warnings = ["config.cache"]  # The settings of sphinx-gallery contain functions.

# Markdown: formulas between dollar signs, links to headings, directives between colons.
myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "deflist", "attrs_block"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

# The reference has one page per public name, which includes its methods.
autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # The docstrings state the types, with shapes.
templates_path = ["templates"]
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# The gallery is read in this order: the core, then the users' networks and data.
GALLERY = [
    "plot_memory_pro.py",
    "plot_gain.py",
    "plot_lyapunov.py",
    "plot_gru_weight_maps.py",
    "plot_task_alignment.py",
    "plot_example_run.py",
    "plot_digits_pipeline.py",
    "plot_gram_flow.py",
]
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    # Scripts named plot_* are run, that of NeuroGym is only shown, and the others are commands.
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"^(?!plot_|neurogym_)",
    "within_subsection_order": ExplicitOrder([*GALLERY, "*"]),
    "doc_module": ("kpflow_sklearn",),
    "backreferences_dir": "reference/generated/backreferences",
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
}

# Figures of the pages are drawn when the pages are built, by the scripts in docs/figures.
plot_formats = ["svg"]
plot_html_show_source_link = False
plot_html_show_formats = False
plot_rcparams = {"savefig.bbox": "tight", "font.size": 10}
plot_apply_rcparams = True

html_theme = "pydata_sphinx_theme"
html_title = "kpflow_sklearn"
html_static_path = ["static"]
html_css_files = ["kpflow.css"]
html_show_sourcelink = False
# These pages do not belong to a section with a sidebar.
html_sidebars = {"tutorial/start": [], "tutorial/ideas": []}
html_copy_source = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "header_links_before_dropdown": 7,
}
