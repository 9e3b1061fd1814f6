"""One small picture, to ask whether a service answers."""

from edge_gateway.bench.pictures import make

PROBE = make(64, 64, 1)[0]
