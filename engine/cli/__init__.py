"""Door, floor 4: the command. Composition, signals, exit codes; every import that costs stands inside a command body.

`main(argv)` is the whole command as a function; `entry` is what the console script calls.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (`errors.Exit`). Never raises for what an operator can fix."""
    import click

    from engine.cli.app import app
    from engine.cli.talk import out, refuse, warn
    from engine.errors import AcctopsError, Exit

    arguments = list(sys.argv[1:] if argv is None else argv)
    as_json = "--json" in arguments
    try:
        result = app.main(args=arguments, prog_name="acctops", standalone_mode=False)
        return int(result) if isinstance(result, int) else int(Exit.OK)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.UsageError as error:
        where = f" (acctops {error.ctx.info_name} --help)" if error.ctx is not None and error.ctx.parent else ""
        return refuse(f"{error.format_message()}{where}", Exit.USAGE, as_json=as_json)
    except AcctopsError as error:
        return refuse(str(error), error.exit, as_json=as_json)
    except (KeyboardInterrupt, click.Abort):
        warn("interrupted; nothing was sent")
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        out.close()
        return int(Exit.OK)


def entry() -> None:
    """Console script."""
    from engine.cli.talk import hush_closed_streams

    code = main()
    hush_closed_streams()
    sys.exit(code)
