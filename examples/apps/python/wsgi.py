"""Answers with who it is: any WSGI app is pushed like this."""
import json
import os
import platform

ME = json.loads(os.environ.get("VCAP_APPLICATION") or '{"name":"python","instance_index":0}')


def application(environ, start_response):
    size = len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
    text = "Hello from {name}/{instance_index}, in Python {python}".format(python=platform.python_version(), **ME)
    if size:
        text += ", %d bytes read" % size
    body = (text + "\n").encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
