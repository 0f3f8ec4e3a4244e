"""Exit with 0 when the service in this container is ready and well, else say why not."""

import http.client
import os
import sys

for path in ("/ready", "/health"):
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["MNT_PORT"]), timeout=4)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(500).decode(errors="replace")
    except OSError as error:
        sys.exit(f"GET {path}: {error}")
    if answer.status != http.HTTPStatus.OK:
        sys.exit(f"GET {path}: {answer.status} {body}")
