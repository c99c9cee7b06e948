"""`python -m wan_async.sandbox`."""

from wan_async.sandbox.process import main

if __name__ == "__main__":  # the clip worker's process imports this module anew
    raise SystemExit(main())
