"""A page in a real browser: its DOM after the scripts ran, its console messages, its requests.

Chromium runs headless behind a proxy that records what is asked of it; whatever the page tried
to fetch would show up there.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import socketserver
import subprocess
import threading

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# What Chromium asks for on its own account (time, updates, sign-in, search), whatever page is open.
# That the page names no address at all is tested on its text (`html_test.py`).
BROWSERS_OWN = re.compile(
    r"\b(clients\d?|accounts|www)\.google\.com|\b[\w-]+\.googleapis\.com|\bgvt1\.com"
)


class Recorder(socketserver.ThreadingTCPServer):
    """A proxy that notes the first line of every request and answers nothing."""

    daemon_threads = True

    def __init__(self):
        self.requests: list[str] = []
        super().__init__(("127.0.0.1", 0), self.Handler)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            line = self.rfile.readline().decode("latin-1").strip()
            if not line:  # Chromium opens connections in advance, and may not use them
                return
            self.server.requests.append(line)
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def browse(
    path: pathlib.Path, profile: pathlib.Path, *options: str
) -> tuple[str, list[str], list[str]]:
    """The page's DOM after its scripts ran, its console messages, and its requests."""
    with Recorder() as recorder:
        threading.Thread(target=recorder.serve_forever, daemon=True).start()
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-default-apps",
            "--no-first-run",
            "--no-pings",
            f"--user-data-dir={profile}",
            f"--proxy-server=127.0.0.1:{recorder.server_address[1]}",
            "--proxy-bypass-list=<-loopback>",
            "--enable-logging=stderr",
            "--virtual-time-budget=20000",
            *options,
            "--dump-dom",
            path.as_uri(),
        ]
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=180,
            env={**os.environ, "HOME": str(profile)},
        )
        recorder.shutdown()
    assert result.returncode == 0, result.stderr[-2000:]
    messages = [line for line in result.stderr.splitlines() if ":CONSOLE" in line]
    requests = [r for r in recorder.requests if not BROWSERS_OWN.search(r)]
    return result.stdout, messages, requests
