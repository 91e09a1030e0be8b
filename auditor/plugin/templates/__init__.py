"""Files that ``auditor plugin new`` fills in: module and tests of each kind of plugin, and what is common to all."""
