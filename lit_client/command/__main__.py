"""`python -m lit_client.command`: the same as `litc`."""

from __future__ import annotations

from lit_client.command.cli import main

if __name__ == "__main__":
    main()
