"""Native dataset trees to samples, kept apart from evaluation. Imports without torch.

- `datasets` (facts, splits and families as data), `adapters` (one module per dataset and `generic` for a
  hospital's own), `sources` (a folder and how it is read), `files`, `masks`, `archives` (what a download
  holds, read with suspicion), `doctor` (what lies under a folder).
- `questions` (a labelled frame and what its labels answer), `schema` (the Sample contract), `columns`,
  `fingerprint`, `card` and `build` (the corpus), `select` (samples for a stage), `grid` (the image grid).
- `registry` (which videos are one operation, what leaks) and `near_duplicates` (what no list names).
- `video` and `frame_plans` (videos to the frames that the labels count); `processes` (workers that Ctrl-C
  does not reach).
"""
