"""The gateway's own page over HTTP."""
