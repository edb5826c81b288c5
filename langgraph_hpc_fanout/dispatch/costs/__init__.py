"""What requests cost: prices made into charges, budgets, and the purses that pay."""
