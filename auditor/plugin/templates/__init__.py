"""The files that `auditor plugin new` fills in: for each kind of plugin its module and its tests; the rest is common."""
