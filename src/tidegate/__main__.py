"""`python -m tidegate` does what the command `tidegate` does."""

from tidegate.cli import main

raise SystemExit(main())
