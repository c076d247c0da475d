"""The record of a run: its folder, how it is written, and how records and studies are read and checked."""
