"""The fault lab: a private line of real processes, what befalls it, and the strict account of what it kept."""
