"""Works without being asked: an app without a URL has no port, and is running as
soon as its process is. Its log is what it prints (vmc logs worker).
"""
import os
import signal
import threading

leave = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: leave.set())

every = float(os.environ.get("WORKER_SECONDS") or 5)
done = 0
while not leave.wait(every):
    done += 1
    print("done", done, flush=True)
print("left after", done, flush=True)
