"""From references to a run folder: texts, crossings, a plan of what is said, the folder, and the run read back."""
