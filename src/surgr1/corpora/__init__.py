"""Native dataset trees to samples: one module per public dataset and `generic` for a hospital's own, official
splits, the canonical-video registry with its leakage guard, question wording, the image grid and the build.
Imports without torch.

An adapter keys everything by name and (video, frame), reads image sizes from images, has one explicit
`frame_to_seconds` and fails loudly with file, line, what was found and what was expected.
"""
