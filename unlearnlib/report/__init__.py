"""What a user keeps: the saved model with its card, and reports of tuning and verification."""
