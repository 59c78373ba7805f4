"""The registry on loopback that bases come from and images go to."""

import shutil
import signal
import socket
import subprocess
import time
import urllib.request

from builders import Failed


class Registry:
    """docker-registry on a free loopback port."""

    def __init__(self, directory):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        self.data = directory / "registry"
        configuration = directory / "registry.yml"
        configuration.write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {self.data}}}}}\nhttp: {{addr: '{self.host}'}}\n"
        )
        log = open(directory / "registry.log", "wb")
        self.process = subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=log, stderr=log)
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{self.host}/v2/").close()
                return
            except OSError:
                time.sleep(0.05)
        raise Failed("docker-registry does not start")

    def lose_large(self):
        """Loses each blob of more than 4 MiB, and the repositories that have it."""
        root = self.data / "docker" / "registry" / "v2"
        for blob in list(root.glob("blobs/sha256/*/*")):
            if (blob / "data").stat().st_size > 4 << 20:
                for link in list(root.glob(f"repositories/*/_layers/sha256/{blob.name}")):
                    shutil.rmtree(link.parents[2])
                shutil.rmtree(blob)

    def end(self):
        """Ends the process that this value started."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
