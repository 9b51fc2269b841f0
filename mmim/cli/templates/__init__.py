"""The files that `mmim new` writes, each of them whole: NewName and newname stand for the name that is asked for.

The adapters are modules like any other, so that formatter, linter and type checker look at them here.
"""
