"""Drains a gateway's database to the cloud whenever there is a link; what is settled there may be forgotten here."""
