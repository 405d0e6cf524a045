"""The command line: which command, then only that command's module is imported.

So `fieldstation --help` stays quick, and a query never loads the model. Exit codes: 0 done,
1 something failed that may pass, 2 something a person must mend (one line says what), 130 stopped
by Ctrl-C before it was done.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from fieldstation import __version__
from fieldstation.errors import MendableError, PassingError

COMMANDS = {
    "run": "listen, name, log and publish until stopped",
    "replay": "put recordings into a log, without a broker",
    "check": "test microphone, bundle, broker, database, clock and disk",
    "devices": "list the microphones",
    "detections": "ask the log what was heard",
    "species": "ask the log which species, how often, first and last",
    "coverage": "ask when the station heard, and when it did not and why",
    "status": "show how stations are, from their broker",
    "watch": "show any station's birds live, from its broker",
    "log": "be the logger alone, for a hub",
    "worker": "paint what the log has queued",
    "images": "list, copy or paint again the pictures of who was heard",
    "paint": "paint who is heard, from the call itself",
    "bundle": "add, list, show or choose a model",
}

EXIT_FAILED = 1
EXIT_MEND = 2
EXIT_INTERRUPTED = 130

EPILOG = """examples:
  fieldstation run --demo                  a real recording through the whole station
  fieldstation run                         listen to the default microphone
  fieldstation detections --since today    what was heard today
  fieldstation COMMAND --help              options and examples of a command
"""


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the first word."""
    parser = argparse.ArgumentParser(
        prog="fieldstation",
        description="An always-on acoustic field station: hears a bird, names it, logs it.",
        epilog=_command_list() + "\n" + EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="fieldstation [--version] COMMAND [OPTION ...]",
    )
    parser.add_argument("--version", action="version", version=f"fieldstation {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="see below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def command_parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of one command, with its module's options and examples."""
    module = importlib.import_module(f"fieldstation.commands.{name}")
    parser = argparse.ArgumentParser(
        prog=f"fieldstation {name}",
        description=module.__doc__,
        epilog=f"examples:\n{module.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the process's exit code."""
    open_streams()
    parser = build_parser()
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return EXIT_MEND
    chosen = parser.parse_args(arguments)
    try:
        parsed = command_parser(chosen.command).parse_args(chosen.arguments)
        code: int = parsed.run(parsed)
        sys.stdout.flush()
    except MendableError as error:
        print(f"fieldstation {chosen.command}: {error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, PassingError) else EXIT_MEND
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def open_streams() -> None:
    """Open an empty stream for each of the three that the process was started without (`>&-`).

    Otherwise the next file opened, a database perhaps, would take its number, and with it what
    any library writes to standard error.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - for as long as we live


def _command_list() -> str:
    width = max(map(len, COMMANDS)) + 2
    return "commands:\n" + "".join(f"  {name:<{width}}{text}\n" for name, text in COMMANDS.items())


if __name__ == "__main__":
    sys.exit(main())
