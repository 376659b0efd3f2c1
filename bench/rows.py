"""45 rows of a big decoder against loading it: ``python bench/rows.py``.

Writes a 65,536 x 3,584 float32 decoder (0.94 GB) as a SAELens folder into a temporary folder, then in fresh processes
reads 45 random rows, loads the whole file, and reads the same rows by range requests from a loopback server. Prints the
table and writes ``bench/results/rows.json``. Imports are not timed; the file is in the page cache when it is read, for
all three alike. Peaks are the process's own (VmHWM: getrusage would count what its parent held when it was started).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from dragoman.store import write_json

HERE = Path(__file__).parent
D_SAE, D_IN, ROWS = 65_536, 3_584, 45
TARGETS = {"seconds": 0.3, "peak_mb": 200}

# What a fresh process does; it prints seconds, megabytes after imports, megabytes at the peak, and a checksum.
WORK = {
    "rows": "found = open_dictionary(where).features(features).directions\n"
    "sum_of = float((found.unit * found.norms[:, None]).sum())",
    "load": "whole = read_arrays(where + '/sae_weights.safetensors')[0]['W_dec']\n"
    "sum_of = float(whole[features].sum())",
    "http": "with RemoteFile(where) as file:\n"
    "    found = ArraysFile(file).array('W_dec').rows(features)\n"
    "    more = {'bytes': file.fetched, 'requests': file.requests}\n"
    "sum_of = float(found.sum())",
}
SHELL = """
import json, re, sys, time
from pathlib import Path
import httpx, numpy as np
from dragoman.dictionaries import open_dictionary
from dragoman.store import ArraysFile, read_arrays
from dragoman.store.remote import RemoteFile
where, features, more = sys.argv[1], json.loads(sys.argv[2]), {{}}
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
imported = peak()
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
print(json.dumps({{"seconds": seconds, "imports_mb": imported, "peak_mb": peak(), "sum": sum_of, **more}}))
"""


def make(folder: Path) -> None:
    """The decoder, a few megabytes at a time; rows differ, so that wrong ones would show."""
    (folder / "cfg.json").write_text(
        json.dumps({"d_sae": D_SAE, "d_in": D_IN, "model_name": "m", "hook_name": "blocks.20.hook_resid_post"})
    )
    size = D_SAE * D_IN * 4
    header = json.dumps({"W_dec": {"dtype": "F32", "shape": [D_SAE, D_IN], "data_offsets": [0, size]}}).encode()
    rng = np.random.default_rng(0)
    with (folder / "sae_weights.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(D_SAE // 1024):
            file.write(rng.standard_normal((1024, D_IN), dtype=np.float32).tobytes())
        file.flush()
        os.fsync(file.fileno())


def measured(work: str, where: str, features: list[int], repeats: int = 3) -> dict[str, float]:
    """The median run of several fresh processes, by seconds."""
    runs = []
    for _ in range(repeats):
        done = subprocess.run(
            [sys.executable, "-c", SHELL.format(work=WORK[work]), where, json.dumps(features)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        runs.append(json.loads(done.stdout))
    return sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]


class Ranges(BaseHTTPRequestHandler):
    """One file, in ranges only."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # as real servers do; otherwise every answer waits 40 ms for an acknowledgement
    path_served: Path

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""

    def do_GET(self) -> None:
        """Answer a range."""
        size = self.path_served.stat().st_size
        asked = re.match(r"bytes=(\d+)-(\d+)$", self.headers.get("Range", ""))
        start, end = (int(asked[1]), min(int(asked[2]) + 1, size)) if asked else (0, 0)
        with self.path_served.open("rb") as file:
            file.seek(start)
            body = file.read(end - start)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def over_http(path: Path, features: list[int]) -> dict[str, float]:
    """The same rows from a loopback server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Ranges,), {"path_served": path}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        return measured("http", f"http://127.0.0.1:{server.server_address[1]}/d.safetensors", features)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Measure, print, write."""
    features = [int(i) for i in np.random.default_rng(1).choice(D_SAE, ROWS, replace=False)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder)
        weights = folder / "sae_weights.safetensors"
        size = weights.stat().st_size
        rows, load = measured("rows", temporary, features), measured("load", temporary, features)
        http = over_http(weights, features)
    sums = [rows["sum"], load["sum"], http["sum"]]
    if not np.allclose(sums, sums[0], rtol=1e-3):
        raise SystemExit(f"the three ways disagree: {sums}")
    write_json(HERE / "results" / "rows.json", results(rows, load, http, size))
    print(f"{ROWS} rows of {D_SAE} x {D_IN} float32 ({size / 1e9:.2f} GB)")
    print(f"{'':24}{'seconds':>10}{'peak MB':>10}{'of it imports':>15}{'bytes read':>14}")
    need = ROWS * D_IN * 4
    for name, run, read in (("rows, from disk", rows, need), ("rows, over HTTP", http, http["bytes"])):
        print(f"{name:24}{run['seconds']:10.4f}{run['peak_mb']:10.1f}{run['imports_mb']:15.1f}{read:14,.0f}")
    print(f"{'the whole file':24}{load['seconds']:10.4f}{load['peak_mb']:10.1f}{load['imports_mb']:15.1f}{size:14,.0f}")
    print(
        f"from disk {load['seconds'] / rows['seconds']:.0f} times faster and {load['peak_mb'] / rows['peak_mb']:.0f} "
        f"times smaller; targets {TARGETS['seconds']} s and {TARGETS['peak_mb']} MB: "
        f"{'reached' if all(rows[key] < most for key, most in TARGETS.items()) else 'MISSED'}"
    )


def results(rows: dict[str, float], load: dict[str, float], http: dict[str, float], size: int) -> dict[str, object]:
    """What is kept."""
    return {
        "seconds": rows["seconds"],
        "peak_mb": rows["peak_mb"],
        "imports_mb": rows["imports_mb"],
        "full_load_seconds": load["seconds"],
        "full_load_peak_mb": load["peak_mb"],
        "http_seconds": http["seconds"],
        "http_bytes": http["bytes"],
        "http_requests": http["requests"],
        "http_peak_mb": http["peak_mb"],
        "file_bytes": size,
        "rows": ROWS,
        "shape": [D_SAE, D_IN],
        "targets": TARGETS,
    }


if __name__ == "__main__":
    main()
