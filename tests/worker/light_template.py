"""`python -m tests.worker.light_template PROGRAM …`: the template, whose programs only read their standard input.

For tests of how templates are started, replaced and ended, where loading torch would take nearly all of the time.
"""

from __future__ import annotations

import sys

from lit_core.trainer import template
from lit_spec.trainer.template import Program


def main() -> int:
    """What is forked."""
    sys.stdin.read()
    return 0


if __name__ == "__main__":
    for program in Program:
        template.LOADED[program] = ("tests.worker.light_template",)
        template.LOADED_WHILE_IDLE[program] = ()
    sys.exit(template.main())
