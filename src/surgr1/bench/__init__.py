"""SurgBench: what is asked of whom, what the answers are worth, and how sure that is.

`cards` (tasks) and `model_cards` fix what is asked and how; `runner` writes rows of `predictions`, which are
all that scoring needs. `reduction` turns a card's rows into sums per video, `metrics` are functions of such
sums, `statistics` and `calibration` say how sure they are, `scoring` puts them together, `arena` and
`leaderboard` compare, `published` holds the paper's tables. Of the reasoning, `reasoning_metrics` (with
`trace_words`) judge a trace by the labels, `statements` by the simulated scene (`truth`), `probes` by asking
again. `report` and its parts write pages and tables, `lmms_eval` the tasks for another harness.

Denominators are strict: every question of the list counts, and an answer that is not read is wrong, never a
class. Imports without torch.
"""
