"""Films in containers, through PyAV."""
