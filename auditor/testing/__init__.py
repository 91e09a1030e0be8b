"""For the tests of plugins: small classifiers with known answers, and the checks of a plugin as pytest items.

The pytest plugin (``auditor/testing/plugin.py``) is loaded wherever auditor is installed.
"""

from auditor.conformance.package import Check
from auditor.testing.classifiers import Known, Linear, biased, constant, linear, masked, randomised
from auditor.testing.measuring import conclude, measure

__all__ = ["Check", "Known", "Linear", "biased", "conclude", "constant", "linear", "masked", "measure", "randomised"]
