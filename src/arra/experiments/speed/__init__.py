"""How fast: benches that compare arra with its peers in one run, and with what the machine can do.

A bench is a module of this package with a `QUESTION` and a function `cases(budget, folder)`, which
gives functions that build a `Case` each; adding the module is all there is to registering it.
"""
