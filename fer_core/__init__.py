"""Train, evaluate and report facial expression recognition; see README.md for what each module does."""
