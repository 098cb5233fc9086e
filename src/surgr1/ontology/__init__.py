"""What surgery is made of: tasks and their levels, vocabularies with native spellings, procedures as
validated YAML.

Everything is keyed by canonical name (lower case, words separated by spaces), never by another loader's
integer: the same label has different integers in different releases of the same dataset. Imports nothing of
ours and no heavy library.
"""
