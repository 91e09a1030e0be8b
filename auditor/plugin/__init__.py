"""The plugin interface: hooks, registry, suites and the template of a new plugin."""
