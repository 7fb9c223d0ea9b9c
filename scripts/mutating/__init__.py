"""A sample of mutants of the core modules, and which of them survive the tests."""
