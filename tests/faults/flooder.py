"""A device without manners, as a process of its own: it publishes readings as fast as it can.

`python flooder.py PORT ACCOUNT PASSWORD SECONDS keyed|bare`; it prints how many it published.
"""

from __future__ import annotations

import sys
import time

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from millrace import clock, events, topics

UNACKNOWLEDGED_MAX = 2000


def main(port: int, account: str, password: str, seconds: float, kind: str) -> None:
    """Flood the broker."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=account, protocol=paho.MQTTv311)
    if password:
        client.username_pw_set(account, password)
    client.max_inflight_messages_set(UNACKNOWLEDGED_MAX)
    client.connect("127.0.0.1", port)
    client.loop_start()
    topic = topics.topic(topics.DEFAULT_PREFIX, topics.Kind.READING, account, "flood")
    source = topics.device_source(topics.DEFAULT_PREFIX, account, "flood")
    now = clock.SystemClock()
    epoch = f"{time.time_ns() % 36**4:08d}"[-8:]
    count, end_s = 0, time.monotonic() + seconds
    while time.monotonic() < end_s:
        count += 1
        payload = b'{"flow_l_s": %d}' % count
        if kind == "keyed":
            key = events.Key(source, epoch, count)
            payload = events.encode_json(events.new_event(events.READING, key, now.now(), data={"flow_l_s": count}))
        info = client.publish(topic, payload, qos=1)
        if count % UNACKNOWLEDGED_MAX == 0:
            info.wait_for_publish(5.0)
    client.disconnect()
    client.loop_stop()
    sys.stdout.write(f"{count}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5])
