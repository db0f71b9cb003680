"""What every recipe's training shares: arguments, a thin `Trainer`, scoring, monitors and plots."""
