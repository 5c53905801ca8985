"""A style on faces: one picture, many, films."""
