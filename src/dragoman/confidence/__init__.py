"""From what is known of an explanation to the chance that it is right."""
