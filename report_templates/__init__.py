"""What the report looks like: Jinja templates, the style sheet and the one small script.

``report.html.j2`` is the page; ``macros.html.j2`` draws badges, metrics and evidence; ``probe.html.j2`` one probe;
``method.html.j2`` what the numbers mean and do not mean; ``frameworks.html.j2`` which standards the evidence speaks to.
HTML and PDF are made from the same files.
"""
