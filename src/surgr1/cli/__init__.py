"""`surgr1 …`: one thin file per group of verbs. Parses arguments, calls one function, prints; no logic of its
own.
"""
