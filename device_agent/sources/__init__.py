"""Where captures come from; each kind of source is one module, imported when it is opened."""
