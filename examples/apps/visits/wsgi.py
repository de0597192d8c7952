"""Counts its visits in the memcached that it is bound to."""
import json
import os
import socket
import struct

BOUND = [s for label, all in json.loads(os.environ.get("VCAP_SERVICES") or "{}").items() if label.startswith("memcached-") for s in all]

AUTH, INCREMENT = 0x21, 0x05


def ask(connection, operation, key, extras=b"", value=b""):
    """Sends one request of the binary protocol; returns the answer's value."""
    size = len(extras) + len(key) + len(value)
    connection.write(struct.pack(">BBHBBHIIQ", 0x80, operation, len(key), len(extras), 0, 0, size, 0, 0) + extras + key + value)
    connection.flush()
    _, _, key_size, extras_size, _, status, size, _, _ = struct.unpack(">BBHBBHIIQ", connection.read(24))
    answer = connection.read(size)[key_size + extras_size:]
    if status:
        raise OSError("memcached: " + answer.decode())
    return answer


def count():
    if not BOUND:
        raise OSError("no memcached service is bound to this app")
    c = BOUND[0]["credentials"]
    with socket.create_connection((c["host"], c["port"]), timeout=5) as plain, plain.makefile("rwb") as connection:
        ask(connection, AUTH, b"PLAIN", value=("\0" + c["username"] + "\0" + c["password"]).encode())
        # By one; it begins with one, and is kept.
        return struct.unpack(">Q", ask(connection, INCREMENT, b"visits", struct.pack(">QQI", 1, 1, 0)))[0]


def application(environ, start_response):
    try:
        status, text = "200 OK", "visit %d" % count()
    except OSError as error:
        status, text = "503 Service Unavailable", str(error)
    body = (text + "\n").encode()
    start_response(status, [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
