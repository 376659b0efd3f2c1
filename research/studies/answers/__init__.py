"""What the rows of each study say: a table, a figure and sentences, from runs that are finished."""
