"""DualStyleGAN: exemplar-based portrait style transfer (Yang et al., CVPR 2022)."""

__version__ = "0.1.0"


def __getattr__(name: str):
    # `import dualstylegan` stays instant: torch is imported when the Stylizer is first asked for.
    if name == "Stylizer":
        from dualstylegan.stylizing.stylizer import Stylizer

        return Stylizer
    raise AttributeError(f"module 'dualstylegan' has no attribute '{name}'")
