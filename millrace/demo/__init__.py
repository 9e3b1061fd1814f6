"""The whole line on one machine, with a link that is really cut: a plant's own programs, and a strict account."""
