"""`python -m iodine_aio`."""

import sys

from iodine_aio.cli import main

sys.exit(main())
