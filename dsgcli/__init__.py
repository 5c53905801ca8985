"""The command `dsg`: flags, progress and messages. The work is in `dualstylegan`."""
