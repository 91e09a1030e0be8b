"""A plugin that does not import."""

raise ImportError("needs a library that is not there")
