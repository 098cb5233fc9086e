"""Labels to three-level reasoning: teachers, their prompts, validation, and the conversations that training
reads (Surg-R1-Data).

`exports` writes conversations for other trainers. A trace is accepted only when `validate` finds its form,
its entities and its answer in agreement with the labels; rejected traces are kept with their reasons.
"""
