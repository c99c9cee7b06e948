"""`python -m wan_async.sandbox`."""

from wan_async.sandbox.process import main

if __name__ == "__main__":  # the renderer's process imports this module again
    raise SystemExit(main())
