"""Start a server as README.md says, ask it what its first screen says, and stop it: ``served.py SHELL-COMMAND``.

It fails if the server does not listen, answers otherwise, shows no page, or does not stop when it is told to.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

ASKED = {"prompt": "def add(a, b):\n    ret", "suffix": "\n\nprint(add(1, 2))\n", "temperature": 0}
ANSWER = "urn a + b\n"


def main(command: str) -> int:
    """Run the command, and return 0 if all is well."""
    with subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", command], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stderr is not None  # noqa: S101 - it is a pipe
        try:
            for line in server.stderr:
                print(line, end="", flush=True)
                if found := re.search(r"^bytelm serves .* at (http\S+)$", line):
                    break
            else:
                print("the server ended before it listened")
                return 1
            request = urllib.request.Request(found[1] + "v1/completions", json.dumps(ASKED).encode())
            with urllib.request.urlopen(request) as answer:
                text = json.load(answer)["choices"][0]["text"]
            with urllib.request.urlopen(found[1]) as page:
                shown = b"<title>" in page.read()
        finally:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
    print(f"it wrote {text!r}, and the page is {'there' if shown else 'not there'}")
    return 0 if text == ANSWER and shown else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
