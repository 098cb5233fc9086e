"""`generate()` over a local transformers model, vLLM in this process or an OpenAI-compatible endpoint, over
several replicas of one through Ray; a ledger that never asks twice, and the privacy guard.

vLLM's two forms (`vllm_engine`, `vllm_server`) also sample for a trainer, whose weights they follow.

Errors are completions with `finish_reason` "error" and a message, never text. `local_only` data reaches no
remote endpoint.
"""
