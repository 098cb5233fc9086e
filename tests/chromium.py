"""Chromium for the tests of pages, over its debugging pipe."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path


class Chromium:
    """Chromium over its debugging pipe: no port, no other library."""

    def __init__(self, profile: Path) -> None:
        flags = (
            "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking"
            " --disable-sync --disable-component-update --disable-quic --hide-scrollbars"
            " --remote-debugging-pipe"
        )
        into, out = os.pipe(), os.pipe()
        command = [shutil.which("chromium"), *flags.split(), f"--user-data-dir={profile}", "about:blank"]
        # Chromium reads from descriptor 3 and writes to 4; the hop over 100 and 101 keeps them apart.
        hop = (
            "import os, sys; a, b = map(int, sys.argv[1:3]); os.dup2(a, 100); os.dup2(b, 101);"
            " os.dup2(100, 3); os.dup2(101, 4); os.execv(sys.argv[3], sys.argv[3:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", hop, str(into[0]), str(out[1]), *command],
            pass_fds=(into[0], out[1]),
            stderr=subprocess.DEVNULL,
        )
        os.close(into[0])
        os.close(out[1])
        self.send, self.receive, self.buffer, self.number, self.session = into[1], out[0], b"", 0, ""
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def message(self) -> dict:
        while b"\0" not in self.buffer:
            part = os.read(self.receive, 1 << 20)
            assert part, "the browser is gone"
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def call(self, method: str, **params) -> dict:
        self.number += 1
        asked = {"id": self.number, "method": method, "params": params}
        if self.session:
            asked["sessionId"] = self.session
        os.write(self.send, json.dumps(asked).encode() + b"\0")
        while True:
            found = self.message()
            if found.get("id") == self.number:
                assert "error" not in found, f"{method}: {found}"
                return found["result"]
            self.events.append(found)

    def run(self, script: str):
        """The value of a script, promises awaited."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def size(self, width: int, height: int) -> None:
        """The window's, in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)
        os.close(self.send)
        os.close(self.receive)
