"""`python -m wan_async`."""

from wan_async.cli.main import main

raise SystemExit(main())
