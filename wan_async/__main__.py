"""`python -m wan_async`."""

from wan_async.cli import main

raise SystemExit(main())
