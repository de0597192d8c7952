"""Serves a module's callable, by default `application` (or `app`) of wsgi.py in the
current folder.

usage: wsgi_server.py [-m MODULE[:CALLABLE]] [-p PORT]
"""
import argparse
import importlib
import os
import signal
import socketserver
import sys
import threading
import wsgiref.simple_server

parser = argparse.ArgumentParser()
parser.add_argument("-p", "--port", type=int, default=int(os.environ.get("VCAP_APP_PORT") or 8080))
parser.add_argument("-m", "--module", default="wsgi")
options = parser.parse_args()
port = options.port

sys.path.insert(0, os.getcwd())
name, _, attribute = options.module.partition(":")
module = importlib.import_module(name)  # the app's
application = next((getattr(module, a) for a in ([attribute] if attribute else ["application", "app"]) if hasattr(module, a)), None)
if application is None:
    sys.exit("the module %s has no %s" % (name, attribute or "application and no app"))

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
