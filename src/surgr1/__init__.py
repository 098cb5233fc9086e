"""Surg-R1 (open): a surgical vision-language model that reasons in three levels a surgeon can check.

Rooms, from the bottom up: `ontology` (what surgery is made of), `reasoning` (the three-level trace),
`corpora` (native datasets to samples), `simulator` (simulated operations in native layouts), `engines`
(generation), `synthesis` (labels to reasoning), `training` (stages 1-4), `bench` (SurgBench), `pipeline`
(recipes), `cli`. Imports run downwards only.

Research software. Not a medical device; not for clinical use.
"""

__version__ = "0.1.0"
