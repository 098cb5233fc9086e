"""Models and the four stages: nano base, SFT and cold start (`sft`), GRPO (`grpo`), refinement data
(`refine`).

`objective` and `rewards` are the specification in plain functions; `grpo` is the only module that imports
TRL. `stage` and `watch` are what the stages have in common, `launch` runs one in this process or in many,
`rollouts` says where GRPO's completions come from, `policy` opens a trained one as an engine. `shared_prefix`
lets completions and questions share their picture and prompt, `memory` counts and measures what an update
takes, `page` shows a training, `export` merges. One LoRA adapter (vision encoder, merger, LLM) is carried
from stage to stage; the base is never changed after pre-training.
"""
