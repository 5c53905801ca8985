"""Processes, threads, whole-or-nothing files and interrupts: knows no picture and no network."""
