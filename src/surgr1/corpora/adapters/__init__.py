"""One module per dataset, named after its layout ("-" as "_"), and `generic` for a hospital's own data.

Each has `open_tree(source, rejects)`: recognise the folder (LayoutError saying what was looked for and what
was found), list its videos with a role in this source, read one video's labelled frames. An adapter keys
everything by name and (video, frame), reads picture sizes from pictures, has one explicit `frame_to_seconds`,
raises LabelError where a whole file is wrong and gives single bad rows to `rejects`.
"""
