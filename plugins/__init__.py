"""The built-in plugins, each registered through the entry-point group that third parties use, too."""
