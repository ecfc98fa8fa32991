"""A click program whose every error is one line on standard error, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

import click

from mezite.cli import failures, streams
from mezite.cli.helping import Group, LazyGroup
from mezite.errors import MeziteError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FORMATS = ("text", "json", "yaml")


class Program(Group):
    """The top group of a program; its name begins each line."""

    def main(self, *args: Any, **kwargs: Any) -> NoReturn:
        kwargs["standalone_mode"] = False
        program = str(kwargs.setdefault("prog_name", self.name))
        instruction = os.environ.get(f"_{program.upper()}_COMPLETE")
        if instruction:
            from mezite.cli import completion

            sys.exit(completion.answer(self, program, instruction))
        streams.open_all()
        try:
            result = super().main(*args, **kwargs)
            # An `Exit` without standalone mode comes back as its code.
            code = result if isinstance(result, int) else failures.DONE
            sys.stdout.flush()
        except OSError as error:
            # Not of a socket, whose errors are told in our words.
            streams.give_up(sys.stdout)
            code = failures.FAILED
            if not isinstance(error, BrokenPipeError):  # `mezctl audit ls | head` ends quietly
                failures.report(program, MeziteError(_of_system(error)))
        except MeziteError as error:
            code = failures.report(program, error)
        except click.exceptions.NoArgsIsHelpError as error:
            streams.say(error.format_message())
            code = failures.USAGE
        except click.UsageError as error:
            code = failures.report(program, UsageError(_told(error)))
        except click.ClickException as error:
            code = failures.report(program, UsageError(error.format_message()))
        except (click.Abort, KeyboardInterrupt):
            code = 130
        sys.exit(code)


class LazyProgram(Program, LazyGroup):
    """Whose commands are imported when they are asked for."""


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell completes names of files."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def directories(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The shell completes names of directories."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def named(file: str) -> str:
    """*file* as an error calls it."""
    return "standard input" if file == "-" else file


def contents(file: str, most: int, wanted: str) -> bytes:
    """The first *most* bytes of *file*, ``-`` for standard input; what cannot be read is a
    :class:`UsageError` that ends with what was *wanted*."""
    try:
        if file == "-":
            return sys.stdin.buffer.read(most)
        with open(file, "rb") as opened:  # pathlib is not loaded for every command
            return opened.read(most)
    except OSError as error:
        raise UsageError(f"{named(file)}: {error.strerror}; {wanted}") from None


_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF, errno.EFBIG)


def _of_system(error: OSError) -> str:
    """What it is about: only those that concern a file by its name say so themselves."""
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {error.strerror}"
    if error.errno in _OF_WRITING:
        return f"standard output: {error.strerror}"
    if error.errno == errno.ENOENT:
        return "the working directory was removed; go to one that is there"
    return error.strerror or str(error)


def _told(error: click.UsageError) -> str:
    message = error.format_message().rstrip(".")
    message = message[:1].lower() + message[1:]
    return f"{message}; see {error.ctx.command_path} --help" if error.ctx else message
