"""dragoman: explain the features of one language model with another model's verbalizer."""
