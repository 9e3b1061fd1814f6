"""The far side, small and honest: it keeps each event once, serves them in order and says what is missing."""
