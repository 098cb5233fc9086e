"""Recipes (typed YAML) run as stages with manifests.

`recipe` reads and refuses, `manifest` remembers, `stages` holds one function per stage, `run` puts them in
order, skips what is done and continues what was killed; `estimate` says beforehand what training will take,
`doctor` what it would stumble over. `evaluate` asks any model SurgBench's questions, `measure` scores what a
file of answers holds; `export`, `duplicates` read a built corpus. A stage writes only inside its own folder
of the run and its `manifest.json` last.
"""
