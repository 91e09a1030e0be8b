"""Publishers: what happens to a finished run, if ``AUDITOR_PUBLISH`` names them."""
