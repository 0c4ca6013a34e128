"""Every message goes to every open WebSocket; who is 1 MiB behind misses some.

python broadcast_drops.py PORT
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from iodine import publish

import iodine_aio

iodine_aio.run(
    publish,
    port=int(sys.argv[1]),
    soft_limit_bytes=1 << 20,
    hard_limit_bytes=1 << 20,
    hard_limit_policy="drop",
    send_timeout=0,
)
