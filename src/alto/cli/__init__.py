"""The command line: `alto --help`.

Exit codes: 0 done; 1 the request, check or command failed (one line on stderr says why); 2 the
command line itself is wrong; 130 interrupted.
"""

from __future__ import annotations

import errno
import sys

import click

from ..core import execution
from ..errors import AltoError, GraphError


def form() -> str:
    """Which form of ALTO runs: its hot modules compiled, or all of it interpreted."""
    return "interpreted" if str(execution.__file__).endswith(".py") else "compiled"


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)


class _Group(click.Group):
    """Turns what a user can mend into one clear message and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except GraphError as error:
            for problem in error.problems:
                click.echo(f"error: {problem}", err=True)
            ctx.exit(1)
        except AltoError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            # whoever read our output has gone; there is nobody left to tell
            sys.stderr.close()
            ctx.exit(1)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            click.echo(f"error: the output cannot be written: {error.strerror}", err=True)
            ctx.exit(1)
        return None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    package_name="alto", prog_name="alto", message=f"%(prog)s, version %(version)s, {form()}"
)
def main() -> None:
    """Serve compound AI systems: pipelines whose stages stream into each other.

    \b
    alto demo                                watch an answer being checked while it is written
    alto check app:factcheck                 is the pipeline sound?
    alto run app:factcheck "Who was first?"  run it once
    alto simulate app:factcheck --rate 4     how would it do under load?
    """


from . import planning, running  # noqa: E402  (the commands register themselves)

main.add_command(running.demo)
main.add_command(running.run)
main.add_command(running.check)
main.add_command(running.graph)
main.add_command(planning.simulate)
main.add_command(planning.sim_engine)
