"""What every Millrace program shares: the contract on the wire and the runtime under it."""

__version__ = "0.1.0"
