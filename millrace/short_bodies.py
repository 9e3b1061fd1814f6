"""A reading's body as a row keeps it: what every reading says alike is a byte of its own; any other stays as it is.

No JSON text holds these bytes, so what is put back is what was taken out, to the last byte. What a code stands for
never changes: files hold them.
"""

from __future__ import annotations

_HEAD, _HEAD_CODE = b'{"specversion":"1.0","type":"io.millrace.reading.v1","source":"/', b"\x01"
_KEY_CODE = b"\x02"
_PARTS = (
    (b'","bootid":"', b"\x03"),
    (b'","uptimens":"', b"\x04"),
    (b'","base":"', b"\x05"),
    (b'","datacontenttype":"application/json","data":{"', b"\x06"),
    (b"/device/", b"\x07"),
)
_CODES = bytes(range(1, 8))


def shortened(body: bytes, epoch: str, seq: int) -> bytes:
    """Return how a row with this key keeps a body, which is JSON."""
    if not body.startswith(_HEAD) or len(body.translate(None, _CODES)) != len(body):
        return body
    short = body[len(_HEAD) :].replace(_key(epoch, seq), _KEY_CODE)
    for part, code in _PARTS:
        short = short.replace(part, code)
    return _HEAD_CODE + short


def in_full(kept: bytes, epoch: str, seq: int) -> bytes:
    """Return the body that a row with this key keeps so. Errors: TypeError where damage has made it no row of ours."""
    if kept[:1] != _HEAD_CODE:
        return kept
    body = kept[1:]
    for part, code in _PARTS:
        body = body.replace(code, part)
    return _HEAD + body.replace(_KEY_CODE, _key(epoch, seq))


def _key(epoch: str, seq: int) -> bytes:
    return b'","id":"%b-%d","time":"' % (str(epoch).encode(), seq)
