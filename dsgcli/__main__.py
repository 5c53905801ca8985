"""`python -m dsgcli`, the way `accelerate launch -m dsgcli ...` starts it."""

import sys

from dsgcli.main import main

sys.exit(main())
