"""The runtimes behind one small interface; each is imported by its own module alone."""
