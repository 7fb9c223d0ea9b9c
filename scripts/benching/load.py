"""Orders by wrk, each with a key of its own."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from tempfile import NamedTemporaryFile

ITEMS = 500
"""`item-0` and so on, at random; an order has one to three of them."""

_SCRIPT = """
local customers, items, run = %d, %d, "%s"
local threads, bodies, sent, thread = {}, {}, 0, nil

function setup(each)
  table.insert(threads, each)
  each:set("number", #threads)
end

function init(arguments)
  math.randomseed(number)
  for n = 1, 2000 do
    local first, lines = math.random(items), {}
    for line = 1, math.random(3) do
      lines[line] = string.format('{"sku": "item-%%d", "quantity": %%d}', (first + line) %% items, math.random(3))
    end
    bodies[n] = string.format(
      '{"customer_id": "c-%%d", "lines": [%%s], "redeem_points": %%d}',
      math.random(customers) - 1, table.concat(lines, ", "), math.random(4) == 1 and 1 or 0)
  end
end

function request()
  sent = sent + 1
  local headers = {["Content-Type"] = "application/json", ["Idempotency-Key"] = run .. "-" .. number .. "-" .. sent}
  return wrk.format("POST", "/v1/orders", headers, bodies[sent %% #bodies + 1])
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("RESULT %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class NoLoad(Exception):
    """wrk is not there, or orders were not answered as they should be; the text says which."""


@dataclass(frozen=True)
class Load:
    """What wrk saw. Times are in milliseconds."""

    orders: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Orders a second."""
        return self.orders / self.seconds


def drive(address: str, *, connections: int, seconds: int, customers: int) -> Load:
    """Places orders for so long. Raises NoLoad, also where a single one is not answered with 2xx."""
    if shutil.which("wrk") is None:
        raise NoLoad("wrk is not installed; on Debian and Ubuntu it comes with: apt install wrk")
    with NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT % (customers, ITEMS, os.urandom(8).hex()))
        script.flush()
        options = ["--threads=1", f"--connections={connections}", f"--duration={seconds}s", "--timeout=30s"]
        command = ["wrk", *options, "--latency", f"--script={script.name}", f"http://{address}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^RESULT (\d+) (\d+) (\d+) (\d+) (\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise NoLoad(f"wrk gave no result:\n{done.stdout}{done.stderr}")
    orders, duration_us, p50_us, p99_us, errors = map(int, found.groups())
    if errors or not orders:
        raise NoLoad(f"{errors} of {orders} orders got an unexpected answer:\n{done.stdout}")
    return Load(orders, duration_us / 1e6, p50_us / 1e3, p99_us / 1e3)


def number(text: str) -> int:
    """A whole number above 0, as an option has it. Raises ValueError."""
    value = int(text)
    if value < 1:
        raise ValueError
    return value
