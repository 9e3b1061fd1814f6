"""A device's side: capture, gate, encode, spool, publish, and forget only on the gateway's receipt."""
