"""`millrace bench`: what this machine could do, what the gateway does on it, and what to change."""
