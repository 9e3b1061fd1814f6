"""The broker on the floor: Mosquitto's files rendered from the topic table, and an embedded broker for demos."""
