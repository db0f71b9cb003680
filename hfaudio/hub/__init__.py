"""What goes to the Hub: the check of a model folder as a stranger opens it, its card, and the push."""
