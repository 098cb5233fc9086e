"""Simulated operations: a timed scene graph, a renderer, centres that differ as hospitals do, one writer per
native layout.

Everything made here is simulated and says so: dataset and centre names start with "sim-", every tree carries
`SIMULATED.txt`. A label is written only when the picture shows it: boxes and visibility come from the
renderer, not from the plan. What labels leave out stands beside the trees (`truth`), for checking alone.
`verify` reads every layout back and breaks it in every way that its writer knows; `evidence` keeps the
result.
"""
