"""The command group: errors become one sentence and an exit status."""

from __future__ import annotations

import io
import sys
from typing import Any, NoReturn

import click

from auditor.cli.audit import INCOMPLETE, INTERRUPTED, UNUSABLE
from auditor.errors import AuditorError


class Main(click.Group):
    """Turn errors into one sentence and an exit status; list commands in the order of definition."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of definition."""
        del ctx
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; suggest the nearest one for a misspelt name."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from auditor.toml import nearest

            raise click.UsageError(f"{args[0]}: no such command{nearest(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; bad input never prints a traceback."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                # a path may hold any bytes, and a terminal may not have every character
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except AuditorError as error:
            _refuse(str(error))
        except click.UsageError as error:
            if error.ctx is None or "help" in type(error).__name__.lower():
                raise
            _refuse(f"{error.format_message().rstrip('.')} (see `{error.ctx.command_path} --help`)")
        except (click.exceptions.Exit, click.ClickException):
            # click's own exits, --help among them
            raise
        except KeyboardInterrupt:
            # click would print "Aborted!" and exit with 1
            click.echo("\nauditor: interrupted before anything was measured", err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # the reader of the pipe (head, less) has ended
            sys.stderr.close()
            # an audit may not have been written; nothing else that is printed is needed for a success
            sys.exit(INCOMPLETE if ctx.invoked_subcommand in {"run", "demo"} else 0)
        except OSError as error:
            _refuse(
                f"{error.filename or 'a file'}: {error.strerror or error}; choose another path or make it accessible"
            )
        except Exception:
            # Python exits with 1 after an exception, which means "complete, and a probe failed" here
            import traceback

            click.echo(traceback.format_exc() + "auditor: this is a bug in the auditor; please report it", err=True)
            sys.exit(INCOMPLETE)


def _refuse(sentence: str) -> NoReturn:
    click.echo("auditor: " + " ".join(sentence.split()), err=True)
    sys.exit(UNUSABLE)
