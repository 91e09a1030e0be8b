"""Templates of the report: Jinja files, the style sheet and a small script.

``report.html.j2`` is the page, ``macros.html.j2`` renders badges, metrics and evidence, ``probe.html.j2`` one probe,
``method.html.j2`` method and limits, ``frameworks.html.j2`` the mapping to standards. HTML and PDF share all files.
"""
