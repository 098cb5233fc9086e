"""The three-level trace: render it (`trace`), take it apart, read its answer (`answers`), read its sentences
as statements (`statements`, with the words in `lexicon` and cues in `findings`), hold them against labels
(`support`), check the whole (`faithfulness`; how it is written: `prose`).

Parsing never raises and never guesses: no random choice, no default class (reference evaluation.md B10). One
parser feeds rewards, refinement and every metric.
"""
