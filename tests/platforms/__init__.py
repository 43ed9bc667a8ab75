"""Engines on which the engine tests are run: `make test-platforms`."""
