"""A certificate that is refused for its dates is said for what it is: which dates, what this clock says, what to do."""

from __future__ import annotations

import socket
import ssl
import time
from pathlib import Path
from typing import Any

from millrace import clock

_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: verify all but the dates


def why_refused(error: BaseException, host: str, port: int, ca_file: Path | None, timeout_s: float) -> str | None:
    """Return what to say of a failed TLS connection if only a certificate's dates were wrong; None for all else.

    It connects once more to read the dates, with everything but them verified, and sends nothing.
    """
    if not isinstance(error, ssl.SSLCertVerificationError) or error.verify_code not in (_NOT_YET_VALID, _EXPIRED):
        return None
    now_s, state = time.time(), clock.wall_state()
    try:
        context = ssl.create_default_context(cafile=ca_file)
        context.verify_flags = ssl.VerifyFlags(context.verify_flags | _NO_CHECK_TIME)
        with (
            socket.create_connection((host, port), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            certificates = [(f"the certificate of {host}", tls.getpeercert() or {})]
    except OSError:
        return None
    certificates += [("the certificate of its authority", dict(found)) for found in context.get_ca_certs()]
    for whose, certificate in certificates:
        said = verdict(whose, *_dates(certificate), now_s, state)
        if said is not None:
            return said
    return f"a certificate above that of {host} is not valid at what this clock says ({_day(now_s)}): {error}"


def verdict(whose: str, from_s: float, until_s: float, now_s: float, state: str) -> str | None:
    """Return what is wrong with a certificate's dates and what to do, as far as the clock can be believed; or None.

    Times are seconds since 1970; `state` is what `clock.wall_state` says.
    """
    if from_s <= now_s <= until_s:
        return None
    said = f"valid from {_day(from_s)}" if now_s < from_s else f"expired on {_day(until_s)}"
    if state == "synced":
        return (
            f"{whose} is {said}; the clock says {_day(now_s)} and is believable, because the kernel holds it for"
            " synchronised: renew the certificate"
        ).replace("is expired", "expired")
    if now_s < from_s:
        return f"the clock says {_day(now_s)}: {whose} is {said}; set the clock"
    return (
        f"the clock says {_day(now_s)}: {whose} {said}; nothing vouches for the clock ({state}): if it is right, renew"
        " the certificate, if not, set the clock"
    )


def _dates(certificate: dict[str, Any]) -> tuple[float, float]:
    return (
        ssl.cert_time_to_seconds(certificate.get("notBefore", "Jan 1 00:00:00 1970 GMT")),
        ssl.cert_time_to_seconds(certificate.get("notAfter", "Dec 31 23:59:59 9999 GMT")),
    )


def _day(seconds: float) -> str:
    return clock.rfc3339(int(seconds) * 10**9)[:19] + "Z"
