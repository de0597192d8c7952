"""Serves the callable `application` (or `app`) of wsgi.py in the current folder.

usage: wsgi_server.py [-p PORT]
"""
import argparse
import os
import signal
import socketserver
import sys
import threading
import wsgiref.simple_server

parser = argparse.ArgumentParser()
parser.add_argument("-p", "--port", type=int, default=int(os.environ.get("VCAP_APP_PORT") or 8080))
port = parser.parse_args().port

sys.path.insert(0, os.getcwd())
import wsgi  # noqa: E402 - the app's

application = getattr(wsgi, "application", None) or getattr(wsgi, "app", None)
if application is None:
    sys.exit("wsgi.py has neither application nor app")

try:
    from gunicorn.app.base import BaseApplication
except ImportError:
    BaseApplication = None

if BaseApplication:
    class Gunicorn(BaseApplication):
        def load_config(self):
            self.cfg.set("bind", "0.0.0.0:%d" % port)
            self.cfg.set("threads", 8)
            self.cfg.set("accesslog", "-")

        def load(self):
            return application

    Gunicorn().run()
    sys.exit()


class Server(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = False  # requests in progress are finished
    request_queue_size = 128


class Handler(wsgiref.simple_server.WSGIRequestHandler):
    def address_string(self):  # no look-up of names
        return self.client_address[0]


server = Server(("0.0.0.0", port), Handler)
server.set_app(application)
# shutdown waits for the loop, which is this thread's: another one has to call it.
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
print("serving on port", port, flush=True)
server.serve_forever(poll_interval=0.1)
server.server_close()
