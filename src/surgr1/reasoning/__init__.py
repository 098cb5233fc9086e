"""The three-level trace: render it, parse it, normalise its answer, check it against labels.

Parsing never raises and never guesses: no random choice, no default class (reference evaluation.md B10). One
parser feeds rewards, refinement and every metric.
"""
