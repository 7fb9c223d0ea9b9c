"""What an implementation of reservations or loyalty must do, by the contract alone."""
