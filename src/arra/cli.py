"""The command line: it finds the commands, runs one, and turns errors into exit codes.

Exit codes: 0 done; 1 failed, with the reason on stderr; 2 a wrong argument or input; 3 parts that
do not belong together; 4 training diverged; 130 interrupted. 1 to 4 are `ArraError.exit_code`.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import reduce
from operator import or_
from typing import Annotated, Any

import arra
import arra.commands
from arra.errors import ArraError, InputError

# The order in which help lists commands: as one works with them. A name needs no place here.
_ORDER = (
    *("demo", "prepare", "tune", "train", "distill", "draft", "imitate", "generate", "describe"),
    *("serve", "evaluate", "export"),
    *("info", "systems", "reproduce", "ablate", "corpus", "bench"),
)
_DESCRIPTION = """Train language models to draw: autoregressive generation with representation \
alignment.

Every command explains itself with --help. Two options go with all of them: --debug (or \
ARRA_DEBUG=1) shows where an error came from, and --version prints the version.

Exit codes: 0 done, 1 failed, 2 wrong argument or input, 3 parts that do not belong together, \
4 training diverged, 130 interrupted."""


def command_names() -> list[str]:
    """The commands that exist, in the order in which help lists them."""
    names = [entry.name for entry in pkgutil.iter_modules(arra.commands.__path__)]
    place = {name: index for index, name in enumerate(_ORDER)}
    return sorted(names, key=lambda name: (place.get(name, len(_ORDER)), name))


def _command(name: str) -> Callable[..., int | None]:
    return importlib.import_module(f"arra.commands.{name}").command


def _run(arguments: Sequence[str]) -> int:
    """Parse and run; the exit code."""
    import tyro

    names = command_names()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in names:
        raise InputError(f"no command is named {arguments[0]!r}; there are: {', '.join(names)}")
    if arguments and arguments[0] in names:  # only the command that runs is imported
        name = arguments[0]
        choices = [tyro.conf.subcommand(name, constructor=_command(name))]
    else:  # the list of commands shows the first paragraph of each one's help
        choices = [
            tyro.conf.subcommand(name, constructor=_command(name), description=_first(name))
            for name in names
        ]
    # A union of one alternative is not a choice for tyro; the hidden None makes it one.
    alternatives: list[Any] = [Annotated[Any, choice] for choice in choices]
    alternatives.append(Annotated[None, tyro.conf.Suppress])
    union: Any = reduce(or_, alternatives)
    code = tyro.cli(
        union,
        prog="arra",
        description=_DESCRIPTION,
        args=list(arguments) or ["--help"],
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    sys.stdout.flush()  # here, so that a closed pipe is noticed where it is handled
    return code if isinstance(code, int) else 0


def _first(name: str) -> str:
    return inspect.cleandoc(_command(name).__doc__ or "").split("\n\n")[0]


def _explain(error: BaseException, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print(f"arra: error: {error}", file=sys.stderr)
    if not debug:
        print("(--debug shows where it came from)", file=sys.stderr)


def run(arguments: Sequence[str]) -> int:
    """Run `arra` with these arguments and return the exit code; nothing is raised on failure."""
    debug = "--debug" in arguments or os.environ.get("ARRA_DEBUG", "0") not in ("", "0")
    arguments = [argument for argument in arguments if argument != "--debug"]
    if "--version" in arguments:
        print(f"arra {arra.__version__}")
        return 0
    try:
        return _run(arguments)
    except SystemExit as stop:  # how the parser ends after --help (0) and wrong arguments (2)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except ArraError as error:
        _explain(error, debug)
        return error.exit_code
    except KeyboardInterrupt:
        print("arra: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`arra systems | head`): leave without a complaint, and
        # give the interpreter something that it can flush when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a missing permission: not a bug, so no traceback
        _explain(error, debug)
        return 1


def main() -> None:
    """Entry point of the program `arra`."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
