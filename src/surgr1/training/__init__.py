"""Models and the four stages: nano base, SFT and cold start (`sft`), GRPO (`grpo`), refinement data
(`refine`).

`objective` and `rewards` are the specification in plain functions; `grpo` is the only module that imports
TRL. One LoRA adapter (vision encoder, merger, LLM) is carried from stage to stage; the base is never changed
after pre-training.
"""
