"""The gateway: receive, infer, decide, commit; only then result, receipt and acknowledgement."""
