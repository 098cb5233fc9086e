"""`generate()` over a local transformers model or an OpenAI-compatible endpoint, a ledger that never asks
twice, and the privacy guard.

Errors are completions with `finish_reason` "error" and a message, never text. `local_only` data reaches no
remote endpoint.
"""
