"""The only door to MQTT: connect, last will, publish, and put what arrives into an inbox, acknowledged by hand."""

from millrace.mqtt.connection import Connection
from millrace.mqtt.dialling import RECEIVE_MAXIMUM, Will
from millrace.mqtt.probing import BrokerUnreachable, probe

__all__ = ["RECEIVE_MAXIMUM", "BrokerUnreachable", "Connection", "Will", "probe"]
