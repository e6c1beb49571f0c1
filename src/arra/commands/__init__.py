"""The commands of `arra`, one module each.

A module `<name>.py` here is the command `arra <name>`. It has one function, `command`, whose typed
arguments become the options, whose docstring becomes the help, and whose return value (an exit
code, or None for 0) ends the program. Modules import what is heavy inside functions, so that help
is instant.
"""
