"""Labels to three-level reasoning (Surg-R1-Data): which samples (`plan`), what a teacher is told (`prompts`,
`statistics`), who writes (`teachers`, `offline`), the gate every trace passes (`validate`, measured by
`labelled`), where it is kept (`store`), the loop over all of it (`synthesize`), people's word (`review` and
its server), and what comes out (`conversations`, `dataset`, `quality`, `exports`).

A trace is accepted only when its form, its entities, its levels and its answer agree with the labels;
rejected traces are kept with their reasons. Refinement's own traces take the same gate into the same store.
"""
